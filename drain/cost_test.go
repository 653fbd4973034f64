package drain

import (
	"testing"
	"testing/synctest"
	"time"
)

// A Pod that crashes all day beside other containers, as the kubelet restarts it: after 10 s, 20 s
// and so on, up to five minutes. Its record expires 30 s after each crash.
func TestADayOfACrashLoopCostsLittle(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newPod(1, []*container{
			{port: appPort, registers: true, delay: 5 * time.Second}, {port: 9102}, {port: 15006, uid: 1337}, {port: 3306, loopback: true},
		}, nil)
		defer w.end()
		for i := range w.containers[1:] {
			w.startOne(i + 1)
		}
		crashes := 0
		day := time.Now().Add(24 * time.Hour)
		for down := 10 * time.Second; time.Now().Before(day); down = min(2*down, 5*time.Minute) {
			w.start()
			wait(t.Context(), time.Minute)
			if w.regs[0].isOut() {
				t.Fatalf("after crash %d a live app is out", crashes)
			}
			w.crash()
			crashes++
			wait(t.Context(), 30*time.Second)
			w.regs[0].expireLease(dead(w))
			wait(t.Context(), down-30*time.Second)
		}
		finds, calls, looks := w.costs()
		t.Logf("%d crashes: %d searches, %d requests, %d scans of the sockets", crashes, finds, calls, looks)
		if most := 24 * 6; finds > most {
			t.Errorf("%d searches of the whole list in a day with %d crashes; want %d at most", finds, crashes, most)
		}
		if most := 24*60 + 12*crashes; calls > most {
			t.Errorf("%d requests in a day with %d crashes; want %d at most", calls, crashes, most)
		}
		if looks > 24*3600*3/4 {
			t.Errorf("%d scans of the sockets in a day", looks)
		}
	})
}

// What listens beside an app that is there, gone or not there yet makes no difference.
func TestAnHourCostsTheSameWhateverListens(t *testing.T) {
	for name, c := range map[string]struct {
		app, registered, others, crashed bool
	}{
		"nothing":                           {},
		"an app":                            {app: true, registered: true},
		"an app that is registered nowhere": {app: true},
		"an app beside others":              {app: true, registered: true, others: true},
		"others alone":                      {others: true},
		"a crashed app":                     {app: true, registered: true, crashed: true},
		"a crashed app beside others":       {app: true, registered: true, others: true, crashed: true},
		"a crashed one, registered nowhere": {app: true, crashed: true},
		"the same beside others":            {app: true, others: true, crashed: true},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newPod(1, []*container{{port: appPort, registers: c.registered}, {port: 9102}, {port: 15006, uid: 1337}, {port: 40001}}, nil)
				defer w.end()
				if c.others {
					for i := range w.containers[1:] {
						w.startOne(i + 1)
					}
				}
				if c.app {
					w.start()
				}
				wait(t.Context(), 3*time.Minute)
				if c.crashed {
					w.crash()
					wait(t.Context(), time.Minute)
					w.regs[0].expireLease(dead(w))
				}
				wait(t.Context(), 5*time.Minute)
				f, c0, l := w.costs()
				wait(t.Context(), time.Hour)
				finds, calls, looks := w.costs()
				finds, calls, looks = finds-f, calls-c0, looks-l
				t.Logf("%d searches, %d requests, %d scans of the sockets", finds, calls, looks)
				if ever := c.app && c.registered; ever && finds > 6 || calls > 90 || looks > 1900 {
					t.Errorf("%d searches, %d requests, %d scans of the sockets", finds, calls, looks)
				}
			})
		})
	}
}
