package conns

import (
	"fmt"
	"log/slog"
	"net"
	"testing"
	"time"

	"prestop/drain/conns/connstest"
)

// pod is an app in a network namespace of its own, with clients outside.
type pod struct {
	t       *testing.T
	app     net.Listener
	port    uint16
	outside *connstest.Outside
	counter *netlinkCounter
}

// newPod opens a counter that is content with every look's duration.
func newPod(t *testing.T, rule Rule) *pod {
	t.Helper()
	connstest.Pod(t)
	outside, err := connstest.NewOutside(0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(outside.Close)
	p := &pod{t: t, outside: outside}
	if p.app, err = net.Listen("tcp", ":0"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { p.app.Close() })
	p.port = portOf(p.app.Addr())
	c, err := openNetlink(rule, slog.New(slog.DiscardHandler)) // here: its sockets are this thread's namespace's
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	p.counter = c.(*netlinkCounter)
	p.counter.shortlist.slow = 0
	p.counter.Watch([]uint16{p.port})
	return p
}

// link is a connection of a client outside.
type link struct {
	p              *pod
	client, server net.Conn
}

func (p *pod) connect() link {
	p.t.Helper()
	var client net.Conn
	var err error
	p.outside.Do(func() { client, err = net.Dial("tcp", net.JoinHostPort(p.outside.Address, fmt.Sprint(p.port))) })
	if err != nil {
		p.t.Fatal(err)
	}
	server, err := p.app.Accept()
	if err != nil {
		p.t.Fatal(err)
	}
	p.t.Cleanup(func() { client.Close(); server.Close() })
	return link{p, client, server}
}

func (l link) say(from, to net.Conn) {
	l.p.t.Helper()
	write(l.p.t, from)
	if _, err := to.Read(make([]byte, 100)); err != nil {
		l.p.t.Fatal(err)
	}
}

func (l link) ask()    { l.p.t.Helper(); l.say(l.client, l.server) }
func (l link) answer() { l.p.t.Helper(); l.say(l.server, l.client) }
func (l link) close()  { l.client.Close(); l.server.Close() }

// settle waits until a whole look proves enough for the next: until delayed acknowledgements are no more under way.
func (p *pod) settle(active, idle int) {
	p.t.Helper()
	eventually(p.t, fmt.Sprintf("%d in use and %d idle, and quiet", active, idle), func() bool {
		p.counter.shortlist.forget()
		tally := count(p.t, p.counter, p.port)
		again, proved := p.counter.CountFew(p.t.Context(), []uint16{p.port})
		return proved && tally.Active == active && tally.Idle == idle && again.Active == active && again.Idle == idle
	})
}

// rest counts without a whole look, and reports whether it could.
func (p *pod) rest() (Tally, bool) { return p.counter.CountFew(p.t.Context(), []uint16{p.port}) }

var soonIdle = Rule{IdleAfter: 50 * time.Millisecond, RequestTimeout: time.Hour}

func TestTheEndOfTheLastInUseNeedsNoWholeLook(t *testing.T) {
	p := newPod(t, soonIdle)
	for range 5 {
		l := p.connect()
		l.ask()
		l.answer()
	}
	one, two := p.connect(), p.connect()
	one.ask()
	two.ask()
	p.settle(2, 5)
	quiet(t, p.counter)
	one.client.Close()
	one.server.Close()
	told(t, p.counter)
	if tally, proved := p.rest(); !proved || tally.Active != 1 || tally.Open != 6 {
		t.Errorf("after the end of one of two: %+v, %t", tally, proved)
	}
	two.client.Close()
	two.server.Close()
	told(t, p.counter)
	if tally, proved := p.rest(); !proved || tally.Active != 0 || tally.Idle != 5 {
		t.Errorf("after the end of the last: %+v, %t", tally, proved)
	}
}

func TestAnAnswerIsSeenWithoutAWholeLook(t *testing.T) {
	p := newPod(t, soonIdle)
	l := p.connect()
	l.ask()
	p.settle(1, 0)
	l.answer()
	eventually(t, "it is idle", func() bool {
		tally, proved := p.rest()
		return proved && tally.Active == 0 && tally.Idle == 1
	})
}

// What a look that proves nothing gives up is told by the next one that counts.
func TestWhatIsGivenUpIsNotLostWithoutAProof(t *testing.T) {
	for name, lost := range map[string]bool{"proved": false, "not proved": true} {
		t.Run(name, func(t *testing.T) {
			p := newPod(t, Rule{IdleAfter: 50 * time.Millisecond, RequestTimeout: 2 * time.Second})
			l := p.connect()
			l.ask()
			p.settle(1, 0)
			var few Tally
			eventually(t, "it is given up", func() bool {
				p.counter.closed.lost = lost
				var proved bool
				if few, proved = p.rest(); proved == lost {
					t.Fatalf("proved: %t", proved)
				}
				return few.Active == 0
			})
			whole := count(t, p.counter, p.port)
			if want := map[bool][2]int{false: {1, 0}, true: {1, 1}}[lost]; few.Expired != want[0] || whole.Expired != want[1] {
				t.Errorf("%d, then %d by the whole look, want %d", few.Expired, whole.Expired, want)
			}
		})
	}
}

func TestAWholeLookIsNeededAfter(t *testing.T) {
	p := newPod(t, soonIdle)
	rested := p.connect()
	rested.ask()
	rested.answer()
	busy := p.connect()
	busy.ask()
	for what, f := range map[string]func(){
		"a request on an idle connection":    func() { rested.ask() },
		"another on the one in use":          func() { busy.ask() },
		"a new connection":                   func() { p.connect() },
		"one that came and went":             func() { p.connect().close() },
		"a connection refused":               func() { p.outside.Do(func() { net.Dial("tcp", p.outside.Address+":1") }) },
		"other ports were watched":           func() { p.counter.Watch(nil); p.counter.Watch([]uint16{p.port}) },
		"the kernel could not queue the end": func() { p.counter.closed.lost = true },
	} {
		eventually(t, "before "+what, func() bool {
			p.counter.shortlist.forget()
			count(t, p.counter, p.port)
			_, proved := p.rest()
			return proved
		})
		f()
		if tally, proved := p.rest(); proved {
			t.Errorf("after %s the rest is thought to prove %+v", what, tally)
		}
	}
	if _, proved := p.counter.CountFew(p.t.Context(), []uint16{p.port, 1}); proved {
		t.Error("the rest of some ports is thought to prove what other ports have")
	}
}

// What the rest proves is what a whole look finds, whatever happens in between.
func TestTheRestAgreesWithAWholeLook(t *testing.T) {
	p := newPod(t, soonIdle)
	var all []link
	proofs := 0
	for i := range 120 {
		switch {
		case len(all) < 3 || i%11 == 0:
			all = append(all, p.connect())
		case i%7 == 0:
			all[0].close()
			all = all[1:]
		case i%3 == 0:
			all[i%len(all)].ask()
		case i%3 == 1:
			all[i%len(all)].answer()
		}
		again := time.NewTimer(time.Duration(i%5) * 15 * time.Millisecond)
		<-again.C
		tally, proved := p.rest()
		p.counter.shortlist.forget()
		whole := count(t, p.counter, p.port)
		if !proved {
			continue
		}
		proofs++
		if tally.Active < whole.Active {
			t.Fatalf("step %d: the rest is thought to prove %+v, and a whole look finds %+v", i, tally, whole)
		}
	}
	if proofs == 0 {
		t.Error("nothing was ever proved: the test is broken")
	}
}

func TestReceivedSegmentsAreRead(t *testing.T) {
	const snmp = "Ip: Forwarding\nIp: 1\nTcp: RtoAlgorithm InErrs InSegs OutSegs\nTcp: 1 -1 4294967297 5\nUdp: InDatagrams\nUdp: 7\n"
	if n, err := parseReceivedSegments([]byte(snmp)); n != 1<<32+1 || err != nil {
		t.Errorf("%d, %v", n, err)
	}
	for _, text := range []string{"", "Tcp: InSegs\n", "Tcp: InSegs\nTcp:\n", "Tcp: A\nTcp: 1\n", "Tcp: InSegs\nTcp: -1\n"} {
		if n, err := parseReceivedSegments([]byte(text)); err == nil {
			t.Errorf("%q is read as %d", text, n)
		}
	}
	if n, err := receivedSegments(); n == 0 || err != nil {
		t.Errorf("here: %d, %v", n, err)
	}
}

func FuzzParseReceivedSegments(f *testing.F) {
	f.Add([]byte("Tcp: InErrs InSegs\nTcp: -1 42\n"))
	f.Fuzz(func(t *testing.T, b []byte) { parseReceivedSegments(b) })
}
