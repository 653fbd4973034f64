package conns

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"prestop/drain/conns/sockdiag"
)

// procBuffer holds many lines of /proc/net/tcp, which are 150 to 200 bytes long.
const procBuffer = 32 << 10

// procCounter reads /proc/net/tcp and tcp6, where netlink is denied (gVisor, a strict seccomp profile). They tell states
// and queues and no clocks: every open connection is in use. Nothing tells of ends.
type procCounter struct {
	dir  string
	turn turn // guards the fields below
	buf  []byte
	look look

	origins origins
	backlog backlog
}

// openProc looks once, so that a kernel that refuses is known now.
func openProc(rule Rule, _ *slog.Logger) (Counter, error) { return openProcIn("/proc/net", rule) }

func openProcIn(dir string, rule Rule) (Counter, error) {
	p := &procCounter{dir: dir, turn: newTurn(), buf: make([]byte, procBuffer), look: look{rule: rule}}
	p.backlog.open(filepath.Join(dir, "netstat"))
	if _, err := p.Listeners(context.Background()); err != nil {
		return nil, err
	}
	return p, nil
}

func (p *procCounter) Source() string { return Proc }

func (p *procCounter) Listeners(ctx context.Context) ([]Listener, error) {
	if err := p.turn.take(ctx); err != nil {
		return nil, fmt.Errorf("list listening sockets: %w", err)
	}
	defer p.turn.release()
	var excluded portSet
	excluded.set(p.look.rule.ExcludePorts, nil)
	var listeners []Listener
	err := p.read(ctx, func(r *message) {
		if r.State == stateListen && !excluded.has(r.localPort) {
			listeners = append(listeners, r.listener())
		}
	})
	if err != nil {
		return nil, fmt.Errorf("list listening sockets from %s: %w", p.dir, err)
	}
	return listeners, nil
}

func (p *procCounter) Count(ctx context.Context, ports []uint16) (Tally, error) {
	if err := p.turn.take(ctx); err != nil {
		return Tally{}, fmt.Errorf("count connections: %w", err)
	}
	defer p.turn.release()
	l := &p.look
	l.begin(Proc, ports)
	l.heard.unknown = true // what has ended is not told
	if l.ports.empty() {
		return l.end(), nil
	}
	o := &p.origins
	o.begin(&l.rule)
	p.backlog.begin()
	err := p.read(ctx, func(r *message) {
		if !l.ports.has(r.localPort) || openStates>>r.State&1 == 0 {
			if r.State == stateListen {
				o.listening.add(r.localPort)
			}
			return
		}
		if counts, why := o.admit(r, l.at); counts {
			p.count(r)
		} else if why != "" && r.open() {
			l.leaveOut(r.localPort, why)
		}
	})
	if err == nil {
		err = o.resolve(func(_ func(), each func(*message)) error {
			return p.read(ctx, func(r *message) {
				if r.State == stateListen || r.State == stateSynSent || openStates>>r.State&1 == 1 {
					each(r)
				}
			})
		}, &l.ports)
	}
	if err != nil {
		return Tally{}, fmt.Errorf("count connections from %s: %w", p.dir, err)
	}
	for i := range o.suspects {
		s := &o.suspects[i]
		if l.at = s.at; s.counts {
			p.count(&s.message)
		} else if s.open() {
			l.leaveOut(s.localPort, Inside)
		}
	}
	return l.end(), nil
}

// count counts a connection.
func (p *procCounter) count(m *message) {
	if m.SynAckRetransmits > 0 && m.opening() && p.backlog.held(m.localPort, m.SynAckRetransmits, p.look.at) {
		m.SynAckRetransmits = 0 // the client is there
	}
	p.look.add(m.connection, &m.Sample, 0)
}

func (p *procCounter) CountFew(context.Context, []uint16) (Tally, bool) { return Tally{}, false }

func (p *procCounter) Watch([]uint16) {}

func (p *procCounter) Ended() <-chan struct{} { return nil }

func (p *procCounter) Close() error { return nil }

// read calls each for the TCP sockets of both families. A kernel without IPv6 has no tcp6.
func (p *procCounter) read(ctx context.Context, each func(*message)) error {
	if err := p.readFile(ctx, "tcp", each); err != nil {
		return err
	}
	if err := p.readFile(ctx, "tcp6", each); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

func (p *procCounter) readFile(ctx context.Context, name string, each func(*message)) error {
	f, err := os.Open(filepath.Join(p.dir, name))
	if err != nil {
		return err
	}
	defer f.Close()
	var row message
	heading := true
	kept := 0 // bytes of an incomplete line at the front of the buffer
	for {
		if err := context.Cause(ctx); err != nil {
			return err
		}
		p.look.at = time.Now()
		n, err := f.Read(p.buf[kept:])
		lines := p.buf[:kept+n]
		for {
			line, rest, whole := bytes.Cut(lines, []byte{'\n'})
			if !whole {
				break
			}
			lines = rest
			if heading {
				heading = false
				continue
			}
			if !parseRow(line, &row) {
				return fmt.Errorf("%w: %s: %.200q", sockdiag.ErrMalformed, name, line)
			}
			each(&row)
		}
		kept = copy(p.buf, lines)
		switch {
		case err == io.EOF && kept == 0:
			return nil
		case err == io.EOF:
			return fmt.Errorf("%w: %s ends within a line", sockdiag.ErrMalformed, name)
		case err != nil:
			return err
		case kept == len(p.buf):
			return fmt.Errorf("%w: %s has a line of more than %d bytes", sockdiag.ErrMalformed, name, kept)
		}
	}
}

// parseRow reads a line of /proc/net/tcp or tcp6 (tcp_ipv4.c, get_tcp4_sock): number, local and remote address, state,
// queues, timer, retransmits, user, timeout, inode, and more that we do not need.
func parseRow(line []byte, r *message) bool {
	*r = message{}
	if _, ok := field(&line); !ok { // number
		return false
	}
	local, _ := field(&line)
	remote, _ := field(&line)
	state, ok := field(&line)
	if !ok || !parseEnd(local, &r.local, &r.localPort) || !parseEnd(remote, &r.remote, &r.remotePort) {
		return false
	}
	queues, _ := field(&line)
	field(&line) // timer
	retransmits, ok := field(&line)
	if !ok || len(queues) != 17 || queues[8] != ':' {
		return false
	}
	s, ok1 := parseHex(state)
	unsent, ok2 := parseHex(queues[:8])
	unread, ok3 := parseHex(queues[9:])
	repeated, ok4 := parseHex(retransmits)
	if !ok1 || !ok2 || !ok3 || !ok4 || s > 0xff {
		return false
	}
	r.State, r.Unacked, r.Unread, r.SynAckRetransmits = uint8(s), unsent, unread, uint8(min(repeated, 0xff))
	uid, _ := field(&line)
	field(&line) // timeout
	inode, ok := field(&line)
	if !ok {
		return false
	}
	user, err := strconv.ParseUint(string(uid), 10, 32)
	if err != nil {
		return false
	}
	number, err := strconv.ParseUint(string(inode), 10, 64)
	r.owner.uid, r.inode = uint32(user), uint32(number)
	return err == nil
}

// parseEnd reads an address and port, in hexadecimal; the address in words of 32 bits in the host's order.
func parseEnd(b []byte, address *[16]byte, port *uint16) bool {
	a, p, ok := bytes.Cut(b, []byte{':'})
	if !ok || len(a) != 8 && len(a) != 32 || len(p) != 4 {
		return false
	}
	if _, err := hex.Decode(address[:], a); err != nil {
		return false
	}
	for w := 0; w < len(a)/2; w += 4 {
		binary.NativeEndian.PutUint32(address[w:], binary.BigEndian.Uint32(address[w:]))
	}
	if len(a) == 8 {
		*address = mapped([4]byte(address[:4]))
	}
	n, ok := parseHex(p)
	*port = uint16(n)
	return ok
}

// parseHex reads up to 8 hexadecimal digits.
func parseHex(b []byte) (n uint32, ok bool) {
	if len(b) == 0 || len(b) > 8 {
		return 0, false
	}
	for _, c := range b {
		switch {
		case '0' <= c && c <= '9':
			c -= '0'
		case 'A' <= c && c <= 'F':
			c -= 'A' - 10
		case 'a' <= c && c <= 'f':
			c -= 'a' - 10
		default:
			return 0, false
		}
		n = n<<4 | uint32(c)
	}
	return n, true
}

// field cuts the next field, between spaces, from the front of line.
func field(line *[]byte) ([]byte, bool) {
	b := bytes.TrimLeft(*line, " ")
	end := bytes.IndexByte(b, ' ')
	if end < 0 {
		end = len(b)
	}
	*line = b[end:]
	return b[:end], end > 0
}
