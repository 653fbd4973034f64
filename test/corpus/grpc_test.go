package corpus

import (
	"context"
	"crypto/tls"
	"io"
	"net"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/interop/grpc_testing"
	"google.golang.org/grpc/metadata"
)

// greeter is gRPC's own test service. A call with the metadata "id" reports its arrival and is not answered.
type greeter struct {
	grpc_testing.UnimplementedTestServiceServer
	*desk
	ctx context.Context
}

// slow reports the call if it is not to be answered, and then waits.
func (g *greeter) slow(ctx context.Context) {
	md, _ := metadata.FromIncomingContext(ctx)
	if len(md["id"]) == 0 {
		return
	}
	g.arrive(md["id"][0])
	if len(md["goes-on"]) > 0 {
		return
	}
	select {
	case <-ctx.Done():
	case <-g.ctx.Done():
	}
}

func (g *greeter) UnaryCall(ctx context.Context, r *grpc_testing.SimpleRequest) (*grpc_testing.SimpleResponse, error) {
	g.slow(ctx)
	return &grpc_testing.SimpleResponse{Payload: &grpc_testing.Payload{Body: make([]byte, r.ResponseSize)}}, nil
}

// StreamingOutputCall sends an event every 50 ms.
func (g *greeter) StreamingOutputCall(r *grpc_testing.StreamingOutputCallRequest, s grpc_testing.TestService_StreamingOutputCallServer) error {
	g.slow(s.Context())
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for {
		if err := s.Send(&grpc_testing.StreamingOutputCallResponse{Payload: &grpc_testing.Payload{Body: []byte("event")}}); err != nil {
			return err
		}
		select {
		case <-tick.C:
		case <-s.Context().Done():
			return nil
		case <-g.ctx.Done():
			return nil
		}
	}
}

func (g *greeter) StreamingInputCall(s grpc_testing.TestService_StreamingInputCallServer) error {
	g.slow(s.Context())
	for {
		if _, err := s.Recv(); err == io.EOF {
			return s.SendAndClose(&grpc_testing.StreamingInputCallResponse{})
		} else if err != nil {
			return err
		}
	}
}

// FullDuplexCall answers each message of a stream.
func (g *greeter) FullDuplexCall(s grpc_testing.TestService_FullDuplexCallServer) error {
	g.slow(s.Context())
	for {
		if _, err := s.Recv(); err == io.EOF {
			return nil
		} else if err != nil {
			return err
		}
		if err := s.Send(&grpc_testing.StreamingOutputCallResponse{}); err != nil {
			return err
		}
	}
}

func serveGRPC(t testing.TB, d *desk, p protocol, l net.Listener) {
	ctx, cancel := context.WithCancel(context.Background())
	var options []grpc.ServerOption
	if p.secure() {
		options = append(options, grpc.Creds(credentials.NewTLS(&tls.Config{Certificates: []tls.Certificate{certificate(t).pair}})))
	}
	server := grpc.NewServer(options...)
	grpc_testing.RegisterTestServiceServer(server, &greeter{desk: d, ctx: ctx})
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = server.Serve(l)
	}()
	t.Cleanup(func() {
		cancel()
		server.Stop()
		<-done
	})
}

// grpc returns a client of the test service, with one connection.
func (v *visit) grpc() grpc_testing.TestServiceClient {
	v.Helper()
	secret := insecure.NewCredentials()
	if v.secure() {
		secret = credentials.NewTLS(v.tls())
	}
	c, err := grpc.NewClient("passthrough:///"+v.address(), grpc.WithTransportCredentials(secret),
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return v.outside.Dial(ctx, v.port) }))
	if err != nil {
		v.Fatal(err)
	}
	v.Cleanup(func() { c.Close() })
	return grpc_testing.NewTestServiceClient(c)
}

// unary has n calls answered, one after the other.
func (v *visit) unary(c grpc_testing.TestServiceClient, n int, think time.Duration, request, answer int) {
	v.Helper()
	for i := range n {
		if i > 0 {
			v.pause(think)
		}
		_, err := c.UnaryCall(v.ctx, &grpc_testing.SimpleRequest{
			Payload: &grpc_testing.Payload{Body: make([]byte, request)}, ResponseSize: int32(answer)})
		if err != nil {
			v.Fatal(err)
		}
	}
}

// hang makes a call in the background that is not answered, and returns once the server has it.
func (v *visit) hang(call func(ctx context.Context), more ...string) {
	v.Helper()
	id := v.id()
	ctx, cancel := context.WithCancel(metadata.AppendToOutgoingContext(v.ctx, append(more, "id", id)...))
	over := make(chan struct{})
	go func() {
		defer close(over)
		call(ctx)
		<-ctx.Done()
	}()
	v.Cleanup(func() { cancel(); <-over })
	v.await(id)
}
