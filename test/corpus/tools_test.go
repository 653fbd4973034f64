package corpus

import (
	"context"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"prestop/test/servers"
)

// toolShapes are made by other clients than Go's: curl, and the h2load and nghttp of nghttp2.
var toolShapes = []shape{
	{name: "curl, a GET answered", want: idle, common: true, on: every, drive: func(v *visit) { v.curl(1, "/fast") }},
	{name: "curl, 5 GETs answered", want: idle, common: true, on: reused, drive: func(v *visit) { v.curl(5, "/fast") }},
	{name: "curl, 4 small POSTs answered", want: idle, common: true, on: reused, drive: func(v *visit) { v.curl(4, "/fast", "-d", "small") }},
	{name: "curl, a large answer read", want: idle, on: every, drive: func(v *visit) { v.curl(1, "/large") }},
	{name: "curl, a GET in flight", want: used, on: every, drive: func(v *visit) { v.curlSlow(0) }},
	{name: "curl, 3 GETs answered, one in flight", want: used, on: over(web1, web1TLS), drive: func(v *visit) { v.curlSlow(3) }},
	// curl 7.88 resets a stream once the body has its length, and sends the next request before the server has ended that stream.
	{name: "curl, 3 GETs answered, one in flight", want: used, mixed: true, on: over(web2TLS), drive: func(v *visit) { v.curlSlow(3) }},
	{name: "h2load, 6 GETs answered, thinking", want: idle, common: true, on: shared, drive: func(v *visit) { v.h2load(6, 100) }},
	{name: "nghttp, a GET in flight", want: used, on: shared, drive: func(v *visit) {
		id := v.id()
		v.start("nghttp", "-n", v.url("/slow?id="+id))
		v.await(id)
	}},
}

// reused are the protocols whose connection curl 7.88 uses for another request.
func reused(p protocol) bool { return p != web2 }

// start runs a client until the test ends; its standard input stays open.
func (v *visit) start(name string, args ...string) {
	v.Helper()
	ctx, cancel := context.WithCancel(v.ctx)
	cmd := exec.CommandContext(ctx, name, args...)
	in, err := cmd.StdinPipe()
	if err != nil {
		v.Fatal(err)
	}
	cmd.Stdout = io.Discard
	ended, err := servers.StartBound(cmd)
	if err != nil {
		v.Fatalf("%v (Debian: apt-get install curl nghttp2-client)", err)
	}
	v.Cleanup(func() {
		cancel()
		in.Close()
		<-ended.Done()
	})
}

// curlFor returns curl's flags for the protocol.
func (v *visit) curlFlags() []string {
	flags := []string{"-s", "-k", "--max-time", "60", "--no-progress-meter"}
	switch v.protocol {
	case web1, web1TLS:
		return append(flags, "--http1.1")
	case web2:
		return append(flags, "--http2-prior-knowledge")
	}
	return append(flags, "--http2")
}

// curl has curl make n requests, and then wait for another server, with the connection kept.
func (v *visit) curl(n int, path string, more ...string) {
	v.Helper()
	other, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		v.Fatal(err)
	}
	v.Cleanup(func() { other.Close() })
	args := append(v.curlFlags(), more...)
	for range n {
		args = append(args, v.url(path))
	}
	v.start("curl", append(args, "telnet://"+other.Addr().String())...)
	if err := other.(*net.TCPListener).SetDeadline(time.Now().Add(90 * time.Second)); err != nil {
		v.Fatal(err)
	}
	c, err := other.Accept()
	if err != nil {
		v.Fatalf("curl has not finished: %v", err)
	}
	v.Cleanup(func() { c.Close() })
}

// curlSlow has curl make n requests and another that is not answered.
func (v *visit) curlSlow(n int) {
	v.Helper()
	id := v.id()
	args := v.curlFlags()
	for range n {
		args = append(args, v.url("/fast"))
	}
	v.start("curl", append(args, v.url("/slow?id="+id))...)
	v.await(id)
}

// h2load has it make n requests, one every so many milliseconds, and then none for a minute.
func (v *visit) h2load(n, every int) {
	v.Helper()
	dir, err := os.MkdirTemp("", "h2load-")
	if err != nil {
		v.Fatal(err)
	}
	v.Cleanup(func() { os.RemoveAll(dir) })
	var script strings.Builder
	for i := range n {
		fmt.Fprintf(&script, "%d\t/fast\n", i*every)
	}
	fmt.Fprintf(&script, "60000\t/fast\n")
	at := filepath.Join(dir, "script")
	if err := os.WriteFile(at, []byte(script.String()), 0o644); err != nil {
		v.Fatal(err)
	}
	v.start("h2load", "-n", fmt.Sprint(n+1), "-c", "1", "-t", "1", "-m", "1", "--timing-script-file", at, "-B", v.scheme()+"://"+v.address())
	v.pause(time.Duration(n*every+300) * ms)
}
