package drain

import (
	"slices"
	"testing"
	"testing/synctest"
	"time"
)

// foreigners are containers that are never the app, and that listen all the time.
var foreigners = map[string][]*container{
	"Istio's proxy":                   {{port: 15006, uid: 1337}, {port: 15001, uid: 1337}, {port: 15021, uid: 1337}},
	"Linkerd's proxy":                 {{port: 4143, uid: 2102}, {port: 4191, uid: 2102}},
	"a database proxy, an admin port": {{port: 5432, loopback: true}, {port: 9901, loopback: true}},
}

// beside runs f in a bubble beside an app and each kind of foreigners, which listen before the app.
func beside(t *testing.T, registries int, registers bool, change func(*Options), f func(t *testing.T, w *world)) {
	t.Helper()
	for name, others := range foreigners {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				containers := []*container{{port: appPort, registers: registers}}
				for _, c := range others {
					other := *c
					containers = append(containers, &other)
				}
				w := newPod(registries, containers, change)
				defer w.end()
				wait(t.Context(), time.Second)
				for i := range others {
					w.startOne(1 + i)
				}
				wait(t.Context(), 20*time.Second)
				f(t, w)
				for _, p := range w.problems {
					t.Error(p)
				}
			})
		})
	}
}

func shownPorts(t *testing.T, w *world) (listening, gone []uint16) {
	t.Helper()
	for _, p := range w.drain.Status(t.Context()).App {
		if p.Listening {
			listening = append(listening, p.Port)
		} else {
			gone = append(gone, p.Port)
		}
	}
	return listening, gone
}

func TestForeignListenersAreNoApp(t *testing.T) {
	beside(t, 0, false, nil, func(t *testing.T, w *world) {
		if listening, gone := shownPorts(t, w); len(listening)+len(gone) > 0 {
			t.Errorf("before the app listens, its ports are %v and %v", listening, gone)
		}
		w.start()
		wait(t.Context(), 3*time.Second)
		if listening, gone := shownPorts(t, w); !slices.Equal(listening, []uint16{appPort}) || len(gone) > 0 {
			t.Errorf("the app's ports are %v and %v", listening, gone)
		}
		w.crash()
		wait(t.Context(), time.Second)
		if ok, _ := w.drain.Ready(false, false); ok {
			t.Error("ready without the app")
		}
		if listening, gone := shownPorts(t, w); len(listening) > 0 || !slices.Equal(gone, []uint16{appPort}) {
			t.Errorf("the app is gone, and its ports are %v and %v", listening, gone)
		}
	})
}

func TestForeignListenersKeepNothingFromEnding(t *testing.T) {
	for name, before := range map[string]func(t *testing.T, w *world){
		"the app never listened": func(*testing.T, *world) {},
		"the app ended": func(t *testing.T, w *world) {
			w.start()
			wait(t.Context(), time.Minute)
			w.crash()
			wait(t.Context(), 50*time.Millisecond)
		},
		"the app was drained and ended": func(t *testing.T, w *world) {
			w.start()
			wait(t.Context(), time.Minute)
			(<-w.hook(t.Context())).must(t, Drained)
			w.crash()
			wait(t.Context(), 50*time.Millisecond)
		},
	} {
		t.Run(name, func(t *testing.T) {
			beside(t, 1, true, nil, func(t *testing.T, w *world) {
				before(t, w)
				began := time.Now()
				w.drain.Terminate()
				<-w.done
				within(t, "the exit", time.Since(began), 0, time.Second)
			})
		})
	}
}

func TestAForeignListenerThatComesBackEndsNoDrain(t *testing.T) {
	beside(t, 1, true, nil, func(t *testing.T, w *world) {
		w.start()
		wait(t.Context(), time.Minute)
		w.connect(1)
		h := w.hook(t.Context())
		wait(t.Context(), 5*time.Second)
		w.crashOne(1)
		wait(t.Context(), time.Second)
		w.startOne(1)
		wait(t.Context(), 20*time.Second)
		w.connect(-1)
		(<-h).must(t, Drained)
		w.crashOne(1)
		wait(t.Context(), time.Second)
		w.startOne(1)
		wait(t.Context(), 20*time.Second)
		if s := w.drain.Status(t.Context()).State; s != "drained" || !w.regs[0].isOut() {
			t.Errorf("the state is %s, out: %t", s, w.regs[0].isOut())
		}
	})
}

func TestAnAppOnTheLoopbackIsOneWhereItIsKnown(t *testing.T) {
	for name, change := range map[string]func(*Options){
		"registered":                  nil,
		"given":                       func(o *Options) { o.Registries, o.Ports = nil, []uint16{appPort} },
		"callers are on this machine": func(o *Options) { o.Registries, o.Loopback = nil, true },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newPod(1, []*container{{port: appPort, registers: true, loopback: true}}, change)
				defer w.end()
				w.start()
				wait(t.Context(), 30*time.Second)
				w.connect(1)
				h := w.hook(t.Context())
				wait(t.Context(), 20*time.Second)
				select {
				case out := <-h:
					t.Fatalf("it did not wait for the connection: %v", out)
				default:
				}
				w.connect(-1)
				(<-h).must(t, Drained)
			})
		})
	}
}
