package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"syscall"
	"time"
)

// child is a process of the demo. It is killed, by its pid, when the context of its start ends.
type child struct {
	name  string
	log   string // the file that has its standard error
	cmd   *exec.Cmd
	lines chan string // what it writes to standard output; closed at its end
	ended chan struct{}
	err   error // how it ended; valid after ended is closed
}

// startChild starts a program. Standard error goes to log.
func startChild(ctx context.Context, name string, log *os.File, program string, args ...string) (*child, error) {
	c := &child{name: name, log: log.Name(), lines: make(chan string, 8), ended: make(chan struct{})}
	c.cmd = exec.CommandContext(ctx, program, args...)
	c.cmd.SysProcAttr = attributes()
	c.cmd.Stderr = log
	// The variables of the machine that runs the demo could configure the sidecar.
	c.cmd.Env = []string{"PATH=" + os.Getenv("PATH")}
	stdout, err := c.cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := c.cmd.Start(); err != nil {
		return nil, fmt.Errorf("start %s: %w", name, err)
	}
	go func() {
		defer close(c.ended)
		scanner := bufio.NewScanner(stdout)
		for scanner.Scan() {
			select {
			case c.lines <- scanner.Text():
			default: // nobody waits for more than the first few
			}
		}
		close(c.lines)
		c.err = c.cmd.Wait()
	}()
	return c, nil
}

// says returns when the child has written the line, or an error if it ends or ctx does.
func (c *child) says(ctx context.Context, want string) error {
	for {
		select {
		case line, open := <-c.lines:
			if !open {
				<-c.ended
				return fmt.Errorf("%s ended before it said %q (its log: %s): %w", c.name, want, c.log, c.err)
			}
			if line == want {
				return nil
			}
		case <-ctx.Done():
			return fmt.Errorf("%s did not say %q: %w", c.name, want, context.Cause(ctx))
		}
	}
}

// stop sends SIGTERM and, if the child is still there after grace, SIGKILL. It returns when the child is gone, with an
// error if it had to be killed or ended with another code than 0.
func (c *child) stop(ctx context.Context, grace time.Duration) error {
	if err := c.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		return fmt.Errorf("%s was gone before its SIGTERM: %w", c.name, err)
	}
	ctx, cancel := context.WithTimeoutCause(ctx, grace, errors.New("still there after its grace period"))
	defer cancel()
	select {
	case <-c.ended:
		if c.err != nil {
			return fmt.Errorf("%s: %w", c.name, c.err)
		}
		return nil
	case <-ctx.Done():
		err := fmt.Errorf("%s: %w", c.name, context.Cause(ctx))
		_ = c.cmd.Process.Kill()
		<-c.ended
		return err
	}
}
