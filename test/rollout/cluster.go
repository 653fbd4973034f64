package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"
)

// cluster is one namespace of the cluster that KUBECONFIG names. Its Pods and Services are reached from here, and mount
// this machine's JVM.
type cluster struct {
	namespace string
	cache     string // kubectl's

	mu      sync.Mutex
	pods    map[string]*pod
	changed chan struct{} // closed, and made anew, at each change of pods
}

// pod is a Pod and when it was seen to become what it became; zero while it has not.
type pod struct {
	Name, Revision, IP             string
	Created, Ready, Stopping, Gone time.Time
}

func newCluster(ctx context.Context, namespace string) (*cluster, error) {
	if _, err := exec.LookPath("kubectl"); err != nil {
		return nil, fmt.Errorf("%w; run this by kube-up.sh ns, or set PATH and KUBECONFIG", err)
	}
	cache, err := os.MkdirTemp("", "rollout-kubectl-")
	if err != nil {
		return nil, err
	}
	c := &cluster{namespace: namespace, cache: cache, pods: map[string]*pod{}, changed: make(chan struct{})}
	_, err = c.kubectl(ctx, "", "create", "namespace", namespace)
	return c, err
}

// remove deletes the namespace with all that is in it, and does not wait for it.
func (c *cluster) remove(ctx context.Context) error {
	_, err := c.kubectl(ctx, "", "delete", "namespace", c.namespace, "--wait=false")
	return errors.Join(err, os.RemoveAll(c.cache))
}

func (c *cluster) command(ctx context.Context, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, "kubectl", append([]string{"--cache-dir", c.cache, "-n", c.namespace}, args...)...)
	cmd.WaitDelay = 5 * time.Second
	return cmd
}

// kubectl runs a command in the namespace and returns its output.
func (c *cluster) kubectl(ctx context.Context, stdin string, args ...string) (string, error) {
	cmd := c.command(ctx, args...)
	cmd.Stdin = strings.NewReader(stdin)
	var out, diag bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &diag
	if err := cmd.Run(); err != nil {
		return "", fmt.Errorf("kubectl %s: %w\n%s", strings.Join(args, " "), err, diag.Bytes())
	}
	return out.String(), nil
}

// watch keeps pods up to date until ctx ends.
func (c *cluster) watch(ctx context.Context) error {
	cmd := c.command(ctx, "get", "pods", "--watch", "--output-watch-events", "-o", "json")
	out, err := cmd.StdoutPipe()
	if err != nil {
		return err
	}
	cmd.Stderr = os.Stderr
	if err := cmd.Start(); err != nil {
		return err
	}
	events := json.NewDecoder(out)
	for {
		var e podEvent
		if err := events.Decode(&e); err != nil {
			if err := errors.Join(cmd.Wait(), ctx.Err()); ctx.Err() == nil {
				return fmt.Errorf("watch the Pods: %w", err)
			}
			return nil
		}
		c.see(e, time.Now())
	}
}

// podEvent is what is read of a watch's event.
type podEvent struct {
	Type   string
	Object struct {
		Metadata struct {
			Name, DeletionTimestamp string
			Labels                  map[string]string
		}
		Status struct {
			PodIP      string
			Conditions []struct{ Type, Status string }
		}
	}
}

func (c *cluster) see(e podEvent, now time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	name := e.Object.Metadata.Name
	p := c.pods[name]
	if p == nil {
		p = &pod{Name: name, Revision: e.Object.Metadata.Labels["revision"], Created: now}
		c.pods[name] = p
	}
	p.IP = e.Object.Status.PodIP
	first := func(t *time.Time, is bool) {
		if is && t.IsZero() {
			*t = now
		}
	}
	first(&p.Ready, slices.Contains(e.Object.Status.Conditions, struct{ Type, Status string }{"Ready", "True"}))
	first(&p.Stopping, e.Object.Metadata.DeletionTimestamp != "")
	first(&p.Gone, e.Type == "DELETED")
	close(c.changed)
	c.changed = make(chan struct{})
}

// seen are the Pods as they are, in the order of their names.
func (c *cluster) seen() ([]pod, <-chan struct{}) {
	c.mu.Lock()
	defer c.mu.Unlock()
	var all []pod
	for _, name := range slices.Sorted(maps.Keys(c.pods)) {
		all = append(all, *c.pods[name])
	}
	return all, c.changed
}

// until waits until the Pods are as they are wanted.
func (c *cluster) until(ctx context.Context, what string, wanted func([]pod) bool) error {
	for {
		all, changed := c.seen()
		if wanted(all) {
			return nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return fmt.Errorf("wait until %s: %w; the Pods: %+v", what, context.Cause(ctx), all)
		}
	}
}

// keepLogs writes what a container says into a file until it ends. What is left of it afterwards nobody can ask for.
func (c *cluster) keepLogs(ctx context.Context, running *sync.WaitGroup, dir, pod, container string) error {
	f, err := os.Create(filepath.Join(dir, pod+"-"+container+".log"))
	if err != nil {
		return err
	}
	cmd := c.command(ctx, "logs", "-f", "--timestamps", pod, "-c", container)
	cmd.Stdout, cmd.Stderr = f, io.Discard
	if err := cmd.Start(); err != nil {
		f.Close()
		return err
	}
	running.Go(func() {
		defer f.Close()
		_ = cmd.Wait() // ends with the container, or is ended
	})
	return nil
}
