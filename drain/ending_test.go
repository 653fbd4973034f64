package drain

import (
	"testing"
	"testing/synctest"
	"time"
)

// The ways in which the process ends, as the comment above Run lists them.
func TestTheProcessEnds(t *testing.T) {
	app := &container{port: appPort, registers: true}
	exporter := &container{port: 9102}
	for sentence, c := range map[string]struct {
		containers []*container
		blind      bool                         // there is no counter
		during     func(t *testing.T, w *world) // after a minute, in which all containers listen
		ends       func(t *testing.T, w *world) // after SIGTERM
		from, to   time.Duration                // from SIGTERM on
		deleted    int
		out        bool // the registry does not send callers when it is over
	}{
		"at once after an app that was drained": {
			containers: []*container{app},
			during: func(t *testing.T, w *world) {
				(<-w.hook(t.Context())).must(t, Drained)
				w.crash()
			}, to: time.Second, deleted: 1, out: true,
		},
		"at once after an app that crashed, without a hook: RestartAllContainers": {
			containers: []*container{app}, during: func(_ *testing.T, w *world) { w.crash() },
			to: time.Second, deleted: 1, out: true,
		},
		"at once after a Job, beside another container": {
			containers: []*container{{port: appPort}, exporter}, during: func(_ *testing.T, w *world) { w.crash() },
			to: time.Second, out: true,
		},
		"at once after a registered app, beside another container": {
			containers: []*container{app, exporter}, during: func(_ *testing.T, w *world) { w.crash() },
			to: time.Second, deleted: 1, out: true,
		},
		"at once before the app ever listened": {
			containers: []*container{{port: 15021, uid: 1337}}, to: time.Second, out: true,
		},
		"with the app, when it is drained": {
			containers: []*container{app},
			ends: func(t *testing.T, w *world) {
				wait(t.Context(), 20*time.Second)
				w.crash()
			}, from: 20 * time.Second, to: 21 * time.Second, deleted: 1, out: true,
		},
		"at the deadline where the app stays": {
			containers: []*container{app}, from: budget, to: budget + time.Second, out: true,
		},
		"at the deadline where clients stay": {
			containers: []*container{app}, during: func(_ *testing.T, w *world) { w.connect(1) },
			from: budget, to: budget + time.Second, out: true,
		},
		"at once after a drain that expired": {
			containers: []*container{app},
			during: func(t *testing.T, w *world) {
				w.connect(1)
				(<-w.hook(t.Context())).must(t, Expired)
			}, to: time.Second, out: true,
		},
		"at the deadline of the hook, not of SIGTERM": {
			containers: []*container{app},
			during: func(t *testing.T, w *world) {
				w.connect(1)
				w.hook(t.Context())
				wait(t.Context(), 40*time.Second)
			}, from: 19900 * time.Millisecond, to: 21 * time.Second, out: true,
		},
		"when the drain is over where nothing can be seen": {
			containers: []*container{app}, blind: true, from: 7 * time.Second, to: 12 * time.Second, out: true,
		},
		"when the registry has the app back after /resume": {
			containers: []*container{app},
			ends: func(t *testing.T, w *world) {
				wait(t.Context(), 5*time.Second)
				w.drain.Resume()
			}, from: 5 * time.Second, to: 6 * time.Second,
		},
		"when it has back an app that was restarted": {
			containers: []*container{app},
			ends: func(t *testing.T, w *world) {
				w.connect(1)
				wait(t.Context(), 5*time.Second)
				w.crash()
				wait(t.Context(), 100*time.Millisecond)
				w.start()
			}, from: 5 * time.Second, to: 8 * time.Second, deleted: -1,
		},
	} {
		t.Run(sentence, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var containers []*container
				for _, of := range c.containers {
					own := *of
					containers = append(containers, &own)
				}
				w := newPod(1, containers, func(o *Options) {
					if c.blind {
						o.Counter = nil
					}
				})
				defer w.end()
				wait(t.Context(), time.Second)
				for i := range containers {
					w.startOne(i)
				}
				wait(t.Context(), time.Minute)
				if c.during != nil {
					c.during(t, w)
					wait(t.Context(), 50*time.Millisecond)
				}
				began := time.Now()
				w.drain.Terminate()
				if c.ends != nil {
					c.ends(t, w)
				}
				select {
				case <-w.done:
				case <-time.After(2 * budget):
					t.Fatal("it does not end")
				}
				within(t, "the end", time.Since(began), c.from, c.to)
				if c.deleted >= 0 && w.regs[0].deletions() != c.deleted {
					t.Errorf("%d instances were deleted", w.regs[0].deletions())
				}
				if w.regs[0].isOut() != c.out {
					t.Errorf("out of service: %t", w.regs[0].isOut())
				}
				for _, p := range w.problems {
					t.Error(p)
				}
			})
		})
	}
}

// What listened before prestop, in no registry and with no client, is a sidecar beside a Job that has
// ended.
func TestTheProcessEndsBesideASidecarThatWasThereBefore(t *testing.T) {
	for sentence, c := range map[string]struct {
		client   bool
		from, to time.Duration
	}{
		"when the drain is over":             {false, endpointLinger, endpointLinger + time.Second},
		"at the deadline if it had a client": {true, budget, budget + time.Second},
	} {
		t.Run(sentence, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newPod(1, []*container{{port: 9102}}, nil)
				defer w.end()
				w.startOne(0)
				wait(t.Context(), time.Second)
				w.restartSidecar()
				wait(t.Context(), time.Minute)
				began := time.Now()
				w.drain.Terminate()
				if c.client {
					w.connect(1)
					wait(t.Context(), 2*time.Second)
					w.connect(-1)
				}
				<-w.done
				within(t, "the end", time.Since(began), c.from, c.to)
			})
		})
	}
}

// An ordinary container gets SIGTERM together with the others, of which one ends at once: the hook of
// the app is served.
func TestAnExporterThatEndsAtItsSIGTERMEndsNoDrain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newPod(0, []*container{{port: appPort}, {port: 9102}}, nil)
		defer w.end()
		w.start()
		w.startOne(1)
		wait(t.Context(), time.Minute)
		w.crashOne(1)
		w.connect(1)
		w.drain.Terminate()
		wait(t.Context(), 100*time.Millisecond)
		h := w.hook(t.Context())
		wait(t.Context(), 10*time.Second)
		select {
		case out := <-h:
			t.Fatalf("it did not wait for the request: %+v", out)
		default:
		}
		w.connect(-1)
		(<-h).must(t, Drained)
		w.crash()
		<-w.done
	})
}
