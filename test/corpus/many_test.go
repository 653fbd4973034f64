package corpus

import (
	"context"
	"flag"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"prestop/drain/conns"
	"prestop/drain/conns/inuse"
	"prestop/drain/conns/sockdiag"
)

// flights is how many requests TestManyRequestsInFlight holds, in rounds of atATime.
var flights = flag.Int("flights", 400, "how many requests in flight TestManyRequestsInFlight makes")

const (
	atATime = 2000
	// talking is how many clients talk at once.
	talking = 16
)

// Every request in flight, of whatever a client and a server said before and beside it, is in use.
func TestManyRequestsInFlight(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	for made, round := 0, uint64(0); made < *flights; round++ {
		n := min(atATime, *flights-made)
		made += n
		t.Run(fmt.Sprintf("until %d", made), func(t *testing.T) { fly(t, n, rand.New(rand.NewPCG(seed, round))) })
	}
}

func fly(t *testing.T, n int, random *rand.Rand) {
	ctx, cancel := context.WithCancel(context.Background())
	t.Cleanup(cancel)
	var servers []*visit
	var ports []uint16
	for _, p := range []protocol{web1, web1TLS, web1TLS12, web1Mutual, web2, web2TLS, web2Mutual, web2Old} {
		for _, serve := range []func(testing.TB, *desk, protocol, net.Listener){serveGo, serveLate} {
			l, err := net.Listen("tcp4", ":0")
			if err != nil {
				t.Fatal(err)
			}
			d := new(desk)
			v := &visit{T: t, protocol: p, ctx: ctx, port: uint16(l.Addr().(*net.TCPAddr).Port), prefix: "many"}
			v.begun = func(id string) bool {
				select {
				case <-d.begun(id):
					return true
				default:
					return false
				}
			}
			serve(t, d, p, l)
			servers, ports = append(servers, v), append(ports, v.port)
		}
	}
	along := counter(servers[0])
	var all sync.WaitGroup
	few := make(chan struct{}, talking)
	for i := range n {
		v := *servers[random.IntN(len(servers))]
		v.outside = links[i%len(links)]
		c := conversation(random, &v)
		all.Go(func() {
			few <- struct{}{}
			defer func() { <-few }()
			c(&v)
		})
	}
	done := make(chan struct{})
	go func() { all.Wait(); close(done) }()
	look := func(c conns.Counter) conns.Tally {
		tally, err := c.Count(ctx, ports)
		if err != nil {
			t.Fatal(err)
		}
		return tally
	}
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for over := false; !over; {
		look(along)
		select {
		case <-tick.C:
		case <-done:
			over = true
		}
	}
	after := counter(servers[0])
	var told sync.Once
	for range 4 {
		for when, c := range map[string]conns.Counter{"all along": along, "afterwards": after} {
			if tally := look(c); tally.Idle > 0 || tally.Open != n {
				t.Errorf("looked at %s: %d of %d in flight are called idle, %d are open", when, tally.Idle, n, tally.Open)
				told.Do(func() { tellIdle(t, ports) })
			}
		}
		<-tick.C
	}
}

// conversation draws what a client does until its request is in flight.
func conversation(r *rand.Rand, v *visit) func(v *visit) {
	before := []int{0, 0, 0, 1, 2, 3, r.IntN(12), r.IntN(40)}[r.IntN(8)]
	size := []int{0, 50, 1400, 3000, 20_000}[r.IntN(5)]
	body := []int{0, 0, 100, 1300, 3000, 100_000}[r.IntN(6)]
	think := []time.Duration{0, 0, 3 * ms, 50 * ms}[r.IntN(4)]
	beside, gap := 0, time.Duration(r.IntN(4))*3*ms
	if v.multiplexed() {
		beside = []int{0, 1, 1, 2, 9}[r.IntN(5)]
	}
	together := r.IntN(2) == 0
	quick := fmt.Sprintf("/slow?ms=1&size=%d", size)
	return func(v *visit) {
		v.http()
		v.call(before, think, "GET", quick, "")
		if body == 0 {
			v.begin("GET", "/slow", nil)
		} else {
			v.begin("POST", "/slow", io.Reader(strings.NewReader(strings.Repeat("x", body))))
		}
		v.pause(gap)
		if together {
			v.together(beside, quick)
		} else {
			v.call(beside, think, "GET", quick, "")
		}
	}
}

// tellIdle logs what the kernel tells of the connections that are called idle.
func tellIdle(t *testing.T, ports []uint16) {
	t.Helper()
	var d sockdiag.Dumper
	judge := inuse.Rule{IdleAfter: rule.IdleAfter, RequestTimeout: rule.RequestTimeout}
	request := sockdiag.Request{States: 1<<inuse.Established | 1<<inuse.CloseWait, Info: true, Ports: ports}
	err := d.Dump(t.Context(), request, func() {}, func(_ time.Time, m *sockdiag.Message) {
		i := &m.Info
		s := inuse.Sample{
			State: m.State, Unread: m.Rqueue, Unacked: m.Wqueue,
			HasClocks: true, SinceSent: sockdiag.Milliseconds(i.Last_data_sent),
			SinceReceived: sockdiag.Milliseconds(i.Last_data_recv), SinceAcked: sockdiag.Milliseconds(i.Last_ack_recv),
			HasBytes: true, BytesReceived: i.Bytes_received, BytesSent: i.Bytes_sent - i.Bytes_retrans,
			HasSegments: true, SegmentsReceived: i.Data_segs_in, SegmentsSent: i.Data_segs_out,
			BareACKs: uint16(i.Segs_out - i.Data_segs_out), LargestReceived: i.Rcv_mss,
		}
		if v, _ := judge.Judge(&s, inuse.Memory{}); slices.Contains(ports, m.ID.SourcePort()) && v.Class == inuse.Idle {
			t.Logf("server %d: %+v, %d retransmits", slices.Index(ports, m.ID.SourcePort()), s, i.Total_retrans)
		}
	})
	if err != nil {
		t.Error(err)
	}
}
