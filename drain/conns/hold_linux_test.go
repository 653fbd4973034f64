package conns

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// holdConnections makes the test's binary another process that holds so many connections, both ends of each.
const holdConnections = "PRESTOP_TEST_HOLD"

// holdPort is where its clients are connected to, in a namespace of its own.
const holdPort = 8080

// heldByOne is how many connections one process can hold, at 20,000 files.
const heldByOne = 9000

// holder is that process.
type holder struct {
	commands io.WriteCloser
	answers  *bufio.Scanner
	run      *exec.Cmd
}

// inNamespace moves the calling goroutine, and what it starts, into a new network namespace. The thread dies with it.
func inNamespace(t testing.TB) {
	t.Helper()
	runtime.LockOSThread()
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		t.Fatalf("make a network namespace (run as root): %v", err)
	}
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	up, err := unix.NewIfreq("lo")
	if err != nil {
		t.Fatal(err)
	}
	up.SetUint16(unix.IFF_UP)
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), unix.SIOCSIFFLAGS, uintptr(unsafe.Pointer(up))); errno != 0 {
		t.Fatalf("raise the loopback interface: %v", errno)
	}
}

// holding starts holders of n connections in the calling goroutine's namespace, as many as their limits of open files
// make necessary, and returns the last, which listens.
func holding(t testing.TB, n int) *holder {
	t.Helper()
	for ; n > heldByOne; n -= heldByOne {
		holdingAtMost(t, heldByOne).do(t, "deafen")
	}
	return holdingAtMost(t, n)
}

func holdingAtMost(t testing.TB, n int) *holder {
	t.Helper()
	h := &holder{run: exec.Command("/proc/self/exe")}
	h.run.Env = []string{fmt.Sprintf("%s=%d", holdConnections, n)}
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
	h.answer(t)
	return h
}

// do has the holder carry out a command (see hold) and returns its answer.
func (h *holder) do(t testing.TB, command string) string {
	t.Helper()
	if _, err := fmt.Fprintln(h.commands, command); err != nil {
		t.Fatal(err)
	}
	return h.answer(t)
}

func (h *holder) answer(t testing.TB) string {
	t.Helper()
	if !h.answers.Scan() {
		t.Fatalf("the process that holds connections ended: %v", h.answers.Err())
	}
	return h.answers.Text()
}

// hold is the other process. It says "ready", then obeys: "deafen" ends its listening socket; "open" opens one connection more, "close" closes that one and
// tells when, in nanoseconds since 1970; "churn" and "calm" start and stop opening and closing others.
func hold() {
	var n int
	must(fmt.Sscan(os.Getenv(holdConnections), &n))
	listener := must(unix.Socket(unix.AF_INET6, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0))
	check(unix.SetsockoptInt(listener, unix.SOL_SOCKET, unix.SO_REUSEADDR, 1))
	check(unix.Bind(listener, &unix.SockaddrInet6{Port: holdPort}))
	check(unix.Listen(listener, 4096))
	open := func(i int) (client, server int) {
		client = must(unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0))
		check(unix.SetsockoptInt(client, unix.SOL_IP, unix.IP_BIND_ADDRESS_NO_PORT, 1))
		check(unix.Bind(client, &unix.SockaddrInet4{Addr: [4]byte{127, 1, byte(i >> 8), byte(i)}}))
		check(unix.Connect(client, &unix.SockaddrInet4{Port: holdPort, Addr: [4]byte{127, 0, 0, 1}}))
		server, _, err := unix.Accept(listener)
		check(err)
		return client, server
	}
	for i := range n {
		open(i % 5000) // each address has 28,000 ports
	}
	fmt.Println("ready")
	var client, server int
	calm := make(chan struct{})
	calmed := make(chan struct{})
	for commands := bufio.NewScanner(os.Stdin); commands.Scan(); {
		switch command := commands.Text(); command {
		case "deafen":
			check(unix.Close(listener))
			fmt.Println("deaf")
		case "open":
			client, server = open(60000)
			must(unix.Write(client, []byte("a request")))
			fmt.Println("opened")
		case "close":
			check(unix.Close(client))
			at := time.Now()
			check(unix.Close(server))
			fmt.Println(at.UnixNano())
		case "churn":
			go func() {
				defer close(calmed)
				for {
					select {
					case <-calm:
						return
					default:
					}
					c, s := open(50000)
					check(unix.SetsockoptLinger(c, unix.SOL_SOCKET, unix.SO_LINGER, &unix.Linger{Onoff: 1})) // no TIME_WAIT
					check(unix.Close(c))
					check(unix.Close(s))
				}
			}()
			fmt.Println("churning")
		case "calm":
			close(calm)
			<-calmed
			fmt.Println("calm")
		}
	}
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

// peak is the largest resident set of this process since lowerPeak, in MiB.
func peak(t testing.TB) float64 {
	t.Helper()
	status, err := os.ReadFile("/proc/self/status")
	if err != nil {
		t.Fatal(err)
	}
	_, after, _ := strings.Cut(string(status), "VmHWM:")
	var kib float64
	if _, err := fmt.Sscan(after, &kib); err != nil {
		t.Fatal(err)
	}
	return kib / 1024
}

// lowerPeak makes the present resident set the peak.
func lowerPeak(t testing.TB) {
	t.Helper()
	if err := os.WriteFile("/proc/self/clear_refs", []byte("5"), 0o200); err != nil {
		t.Fatal(err)
	}
}
