package drain

import (
	"context"
	"net"
	"net/http"
	"net/http/httptest"
	"testing"
	"testing/synctest"
	"time"
)

// visitor is a connection that is only opened and closed.
type visitor struct {
	net.Conn
	closed bool
}

func (v *visitor) Close() error { v.closed = true; return nil }

// full returns a door with no room left, and who is inside.
func full(t *testing.T) (*door, []*visitor, []context.Context) {
	d := newDoor()
	inside := make([]*visitor, room)
	contexts := make([]context.Context, room)
	for i := range inside {
		inside[i] = &visitor{}
		contexts[i] = d.enter(t.Context(), inside[i])
	}
	return d, inside, contexts
}

func TestAFullDoorClosesWhoCameFirstAndIsNotBeingAnswered(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d, inside, contexts := full(t)
		release := make(chan struct{})
		answered := make(chan struct{})
		go func() { // the first one's request is being answered
			defer close(answered)
			r := httptest.NewRequestWithContext(contexts[0], http.MethodGet, "/shutdown", nil)
			d.serve(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { <-release })).ServeHTTP(httptest.NewRecorder(), r)
		}()
		synctest.Wait()
		began := time.Now()
		d.enter(t.Context(), &visitor{})
		if waited := time.Since(began); waited != manners {
			t.Errorf("the next one waited %v; want %v", waited, manners)
		}
		for i, v := range inside {
			if v.closed != (i == 1) {
				t.Errorf("number %d is closed: %v", i, v.closed)
			}
		}
		close(release)
		<-answered
		d.enter(t.Context(), &visitor{})
		if !inside[0].closed {
			t.Error("one that has been answered stays before those that came later")
		}
		if n := d.order.Len(); n != room || len(d.guests) != room {
			t.Errorf("%d are inside, %d known", n, len(d.guests))
		}
	})
}

func TestAFullDoorOpensWhenSomebodyLeaves(t *testing.T) {
	for _, s := range []http.ConnState{http.StateClosed, http.StateHijacked} {
		synctest.Test(t, func(t *testing.T) {
			d, inside, _ := full(t)
			began := time.Now()
			go func() {
				wait(t.Context(), 10*time.Millisecond)
				d.changed(inside[7], http.StateActive) // says nothing
				d.changed(inside[7], s)
			}()
			d.enter(t.Context(), &visitor{})
			if waited := time.Since(began); waited != 10*time.Millisecond {
				t.Errorf("%v: waited %v", s, waited)
			}
			for i, v := range inside {
				if v.closed {
					t.Errorf("number %d was closed", i)
				}
			}
		})
	}
}
