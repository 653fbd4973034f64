package world

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"
)

// sidecar is the product's process, as the kubelet has it: started again after its end.
type sidecar struct {
	w    *world
	args []string
	env  []string
	uid  uint32

	mu      sync.Mutex
	cmd     *exec.Cmd
	ended   chan struct{}
	log     logBuffer
	up      spans
	told    time.Time
	starts  int
	waited  int
	ordered bool // to stop
	deaf    bool // it was ended by a signal that it could not hear yet
}

// logBuffer is what a process writes; safe for concurrent use.
type logBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *logBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *logBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// start starts the process, unless it runs.
func (s *sidecar) start() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.cmd != nil {
		return
	}
	s.w.say("the sidecar starts")
	cmd := exec.Command(binary, s.args...)
	cmd.Env = s.env
	cmd.Stderr, cmd.Stdout = &s.log, &s.log
	if s.w.unread {
		r, w, err := os.Pipe()
		if err != nil {
			s.w.problem("harness: %v", err)
			return
		}
		defer w.Close()
		s.w.closers = append(s.w.closers, func() { r.Close() })
		cmd.Stderr = w
	}
	user := &syscall.Credential{Uid: s.uid, Gid: s.uid}
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL, Credential: user}
	if err := s.w.pod.do(0, cmd.Start); err != nil {
		s.w.problem("harness: the sidecar cannot be started: %v", err)
		return
	}
	s.cmd, s.ended, s.ordered = cmd, make(chan struct{}), false
	s.starts++
	s.up.set(true)
	ended, born := s.ended, time.Now()
	go func() {
		err := cmd.Wait()
		s.mu.Lock()
		killed := strings.Contains(fmt.Sprint(err), "killed")
		if strings.Contains(fmt.Sprint(err), "terminated") && s.told.Sub(born) < time.Second {
			// Before it could hear. In a Pod the kernel lets nothing end the first process.
			killed, s.deaf = true, true
		}
		if err != nil && !killed || err == nil && !s.ordered {
			s.w.problem("the sidecar ended by itself, or not in order: %v", err)
		}
		s.up.set(false)
		s.cmd = nil
		s.mu.Unlock()
		s.w.say("the sidecar has ended")
		close(ended)
	}()
}

// terminate sends SIGTERM.
func (s *sidecar) terminate() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.cmd == nil {
		return
	}
	s.w.say("SIGTERM to the sidecar")
	s.ordered, s.told = true, time.Now()
	_ = s.cmd.Process.Signal(syscall.SIGTERM)
}

// ends waits for the process's end, for some time.
func (s *sidecar) ends(most time.Duration) bool {
	s.mu.Lock()
	ended, runs := s.ended, s.cmd != nil
	s.waited = 0
	s.mu.Unlock()
	if !runs {
		return true
	}
	tick := time.NewTicker(sample)
	defer tick.Stop()
	for end := time.Now().Add(most); ; {
		select {
		case <-ended:
			return true
		case <-tick.C:
			s.mu.Lock()
			s.waited++
			s.mu.Unlock()
			if time.Now().After(end) {
				return false
			}
		}
	}
}

// ticks is how many samples the last call of ends took.
func (s *sidecar) ticks() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.waited
}

// kill ends the process at once.
func (s *sidecar) kill() {
	s.mu.Lock()
	cmd, ended := s.cmd, s.ended
	s.mu.Unlock()
	if cmd == nil {
		return
	}
	s.w.say("SIGKILL to the sidecar")
	_ = cmd.Process.Kill()
	<-ended
}

// running tells when the process ran.
func (s *sidecar) running() spans {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.up)
}

// stopping reports whether the process was told to stop.
func (s *sidecar) stopping() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.ordered
}

// endedAt is when the last process ended.
func (s *sidecar) endedAt() time.Time {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.up[len(s.up)-1].to
}

// endedDeaf reports whether a process was ended by a signal before it could hear it.
func (s *sidecar) endedDeaf() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.deaf
}

// toldAt is when a process was told to stop last.
func (s *sidecar) toldAt() time.Time {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.told
}

// started waits until the process answers, as a startup probe does.
func (s *sidecar) started() {
	s.w.until(4*inWithin, "harness: the sidecar does not answer", func() string {
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		code, err := s.w.kubelet.node.get(ctx, "/healthz")
		if code == 200 || !s.running().is() {
			return ""
		}
		return fmt.Sprint(code, err)
	})
}
