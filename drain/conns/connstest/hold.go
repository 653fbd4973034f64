//go:build linux

package connstest

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// holding makes a test's binary another process that holds connections: how many, and the number of their clients' place.
const holding = "PRESTOP_TEST_HOLD"

// Port is where the connections that a Holder holds are connected to.
const Port = 8080

// heldByOne is how many connections one process can hold, at 20,000 files.
const heldByOne = 9000

// Holder is a process that is both the app in the Pod and its clients outside.
type Holder struct {
	commands io.WriteCloser
	answers  *bufio.Scanner
	run      *exec.Cmd
}

// Main is the whole of a process that is a Holder; it returns at once in any other. Call it first in TestMain.
func Main() (was bool) {
	var n, place int
	if os.Getenv(holding) == "" {
		return false
	}
	must(fmt.Sscan(os.Getenv(holding), &n, &place))
	hold(n, place)
	return true
}

// Hold starts holders of n connections to the calling goroutine's namespace, as many as their limits of open files make
// necessary, and returns the last, which listens. They take the places from 0.
func Hold(t testing.TB, n int) *Holder {
	t.Helper()
	place := 0
	for ; n > heldByOne; n -= heldByOne {
		start(t, heldByOne, place).Do(t, "deafen")
		place++
	}
	return start(t, n, place)
}

func start(t testing.TB, n, place int) *Holder {
	t.Helper()
	h := &Holder{run: exec.Command("/proc/self/exe")}
	h.run.Env = []string{fmt.Sprintf("%s=%d %d", holding, n, place), "PATH=" + os.Getenv("PATH")}
	h.run.Stderr = os.Stderr
	h.run.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	var err error
	if h.commands, err = h.run.StdinPipe(); err != nil {
		t.Fatal(err)
	}
	answers, err := h.run.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	h.answers = bufio.NewScanner(answers)
	if err := h.run.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		h.commands.Close()
		if err := h.run.Wait(); err != nil {
			t.Error(err)
		}
	})
	h.Answer(t)
	return h
}

// Do has the holder carry out a command and returns its answer: "deafen" ends its listening socket; "open" opens one
// connection more, on which a request is sent and not answered; "answer" answers it, "ask" asks again, "close" closes that
// connection and tells when, in nanoseconds since 1970; "churn" and "calm" start and stop opening and closing others;
// "talk" and "hush" start and stop the app's heartbeats to a backend outside, two a second.
func (h *Holder) Do(t testing.TB, command string) string {
	t.Helper()
	h.Tell(t, command)
	return h.Answer(t)
}

// Tell gives a command whose answer Answer waits for.
func (h *Holder) Tell(t testing.TB, command string) {
	t.Helper()
	if _, err := fmt.Fprintln(h.commands, command); err != nil {
		t.Fatal(err)
	}
}

// Answer waits for the answer of a command.
func (h *Holder) Answer(t testing.TB) string {
	t.Helper()
	if !h.answers.Scan() {
		t.Fatalf("the process that holds connections ended: %v", h.answers.Err())
	}
	return h.answers.Text()
}

// site is what a holder holds.
type site struct {
	place    *Outside
	number   int
	listener int
}

func hold(n, number int) {
	s := site{number: number}
	s.place = must(NewOutside(number))
	s.listener = must(unix.Socket(unix.AF_INET6, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0))
	check(unix.SetsockoptInt(s.listener, unix.SOL_SOCKET, unix.SO_REUSEADDR, 1))
	check(unix.Bind(s.listener, &unix.SockaddrInet6{Port: Port}))
	check(unix.Listen(s.listener, 4096))
	for i := range n {
		s.open(i % 500) // each address has 28,000 ports
	}
	fmt.Println("ready")
	var client, server int
	churn, talk := repeated(nil), repeated(nil)
	for commands := bufio.NewScanner(os.Stdin); commands.Scan(); {
		switch command := commands.Text(); command {
		case "deafen":
			check(unix.Close(s.listener))
		case "open":
			client, server = s.open(600)
			ask(client, server)
		case "ask":
			ask(client, server)
		case "answer":
			must(unix.Write(server, []byte("an answer")))
			must(unix.Read(client, make([]byte, 100)))
		case "close":
			check(unix.Close(client))
			at := time.Now()
			check(unix.Close(server))
			fmt.Println(at.UnixNano())
			continue
		case "churn":
			churn = repeat(0, func() {
				c, s := s.open(601)
				check(unix.SetsockoptLinger(c, unix.SOL_SOCKET, unix.SO_LINGER, &unix.Linger{Onoff: 1})) // no TIME_WAIT
				check(unix.Close(c))
				check(unix.Close(s))
			})
		case "calm":
			churn.stop()
		case "talk":
			app, backend := s.call()
			talk = repeat(500*time.Millisecond, func() {
				must(unix.Write(app, []byte("a heartbeat")))
				must(unix.Read(backend, make([]byte, 100)))
			})
		case "hush":
			talk.stop()
		}
		fmt.Println("done")
	}
}

// open opens a connection from one of the addresses outside.
func (s *site) open(i int) (client, server int) {
	s.place.Do(func() {
		client = must(unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0))
		check(unix.SetsockoptInt(client, unix.SOL_IP, unix.IP_BIND_ADDRESS_NO_PORT, 1))
		check(unix.Bind(client, &unix.SockaddrInet4{Addr: [4]byte{10, byte(s.number), 128 + byte(i>>8), byte(i)}}))
		check(unix.Connect(client, &unix.SockaddrInet4{Port: Port, Addr: [4]byte{10, byte(s.number), 0, 1}}))
	})
	server, _, err := unix.Accept(s.listener)
	check(err)
	return client, server
}

// ask sends a request and waits until it is there, which on a busy machine takes a while: the connection is idle till then.
func ask(client, server int) {
	must(unix.Write(client, []byte("a request")))
	must(unix.Poll([]unix.PollFd{{Fd: int32(server), Events: unix.POLLIN}}, -1))
}

// call opens a connection of the app to a backend outside.
func (s *site) call() (app, backend int) {
	const backendPort = 9090
	var listener int
	s.place.Do(func() {
		listener = must(unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0))
		check(unix.Bind(listener, &unix.SockaddrInet4{Port: backendPort}))
		check(unix.Listen(listener, 1))
	})
	app = must(unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0))
	check(unix.Connect(app, &unix.SockaddrInet4{Port: backendPort, Addr: [4]byte{10, byte(s.number), 0, 2}}))
	backend, _, err := unix.Accept(listener)
	check(err)
	return app, backend
}

// repeated ends what repeat does; nil does nothing.
type repeated func()

func (r repeated) stop() {
	if r != nil {
		r()
	}
}

// repeat does f over and over, with a pause between.
func repeat(pause time.Duration, f func()) repeated {
	stop, stopped := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(stopped)
		for {
			select {
			case <-stop:
				return
			case <-time.After(pause):
			}
			f()
		}
	}()
	return func() { close(stop); <-stopped }
}

func must[T any](v T, err error) T {
	check(err)
	return v
}

func check(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, "the process that holds connections:", err)
		os.Exit(1)
	}
}

// Peak is the largest resident set of the process since LowerPeak, in MiB.
func Peak(t testing.TB, pid int) float64 { return memory(t, pid, "VmHWM:") }

// Resident is its resident set, in MiB.
func Resident(t testing.TB, pid int) float64 { return memory(t, pid, "VmRSS:") }

func memory(t testing.TB, pid int, name string) float64 {
	t.Helper()
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		t.Fatal(err)
	}
	_, after, _ := strings.Cut(string(status), name)
	var kib float64
	if _, err := fmt.Sscan(after, &kib); err != nil {
		t.Fatal(err)
	}
	return kib / 1024
}

// LowerPeak makes the present resident set the peak.
func LowerPeak(t testing.TB, pid int) {
	t.Helper()
	if err := os.WriteFile(fmt.Sprintf("/proc/%d/clear_refs", pid), []byte("5"), 0o200); err != nil {
		t.Fatal(err)
	}
}
