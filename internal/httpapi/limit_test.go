package httpapi

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

// full returns a limiter with no room left, and the connections that it has.
func full(t *testing.T) (*connLimiter, []*visitor, []context.Context) {
	l := newConnLimiter()
	inside := make([]*visitor, maxConns)
	contexts := make([]context.Context, maxConns)
	for i := range inside {
		inside[i] = &visitor{}
		contexts[i] = l.accept(t.Context(), inside[i])
	}
	return l, inside, contexts
}

func TestAFullServerClosesTheOldestConnectionThatIsNotBeingAnswered(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l, inside, contexts := full(t)
		release := make(chan struct{})
		answered := make(chan struct{})
		go func() { // the first one's request is being answered
			defer close(answered)
			r := httptest.NewRequestWithContext(contexts[0], http.MethodGet, "/shutdown", nil)
			l.serve(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { <-release })).ServeHTTP(httptest.NewRecorder(), r)
		}()
		synctest.Wait()
		began := time.Now()
		l.accept(t.Context(), &visitor{})
		if waited := time.Since(began); waited != minAge {
			t.Errorf("the next one waited %v; want %v", waited, minAge)
		}
		for i, v := range inside {
			if v.closed != (i == 1) {
				t.Errorf("number %d is closed: %v", i, v.closed)
			}
		}
		close(release)
		<-answered
		l.accept(t.Context(), &visitor{})
		if !inside[0].closed {
			t.Error("one that has been answered stays before those that came later")
		}
		if n := l.order.Len(); n != maxConns || len(l.conns) != maxConns {
			t.Errorf("%d are inside, %d known", n, len(l.conns))
		}
	})
}

func TestAFullServerAcceptsWhenAConnectionEnds(t *testing.T) {
	for _, s := range []http.ConnState{http.StateClosed, http.StateHijacked} {
		synctest.Test(t, func(t *testing.T) {
			l, inside, _ := full(t)
			began := time.Now()
			go func() {
				time.Sleep(10 * time.Millisecond)      // of the bubble
				l.changed(inside[7], http.StateActive) // says nothing
				l.changed(inside[7], s)
			}()
			l.accept(t.Context(), &visitor{})
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
