package drain

import (
	"context"
	"errors"
	"log/slog"
	"math/rand/v2"
	"slices"
	"time"

	"prestop/registry"
)

const (
	// reassert is how often a registry is looked at while the Pod shall stay out of it: whatever
	// undid the leave (a restarted server, an app that registered again) is noticed before many
	// callers have fetched the list. After reassertFor the looks become rare: nobody waits for the
	// drain any more.
	reassert, reassertFor = 4 * time.Second, 3 * time.Minute
	// The callers' view is looked at until it shows that the Pod left: soon, since Nacos' changes
	// in half a second, and then less often, since Eureka's takes up to half a minute and a fleet
	// may be asking.
	observeFirst, observe = 700 * time.Millisecond, 3 * time.Second
	// searchPatience is how long a deregistration is held back by a search for further instances
	// that fails.
	searchPatience = 3 * time.Second
	// rejoinWindow is how long after its port began to listen an instance found disabled is taken
	// for a leftover of ours: Nacos keeps the mark for some 65 s after the instance went, Eureka
	// for as long as the new one heartbeats. Later it is somebody's decision, and not ours to undo,
	// if the instance was in service before.
	rejoinWindow = 2 * time.Minute
	// firstLook is when a registry is looked at again after a change; each wait is twice as long as
	// the one before, up to idleLook, which is how often it is looked at while nothing happens;
	// with jitter.
	firstLook, idleLook = 500 * time.Millisecond, time.Minute
	// lateLook bounds the waits for an app that listens and has not registered yet, within
	// rejoinWindow.
	lateLook = 10 * time.Second
	// emptySearch is how often a registry is searched that held nothing of the Pod during a drain.
	emptySearch = 20 * time.Second
	// listAge is how old a registry's list may be: Eureka serves it from a cache of 30 s.
	listAge = 35 * time.Second
	// rareSearch is how often the whole list is searched at the most once something was found, but
	// for a new port.
	rareSearch = 10 * time.Minute
	// elsewhereAfter is how long an app may listen before it is worth a warning that it is
	// registered nowhere.
	elsewhereAfter = 45 * time.Second
)

// order is what a reconciler shall bring about, and keep so, until its context ends.
type order struct {
	ctx    context.Context
	target target
	// live are the ports that listen: with wantGone their instances are left alone.
	live []uint16
	// serves: callers can reach something of the app.
	serves bool
	// report tells the machine how far it is; reports of an order that another replaced are dropped
	// there.
	report func(eventKind)
	// observe: the end of the linger depends on when the registry's callers can see the change.
	observe bool
}

// reconciler brings one registry to its target, and keeps it there. It is the only one that uses
// it.
type reconciler struct {
	index     int
	registry  registry.Registry
	pod       func() registry.Pod
	since     func() map[uint16]time.Time // of each port that may be the app's and listens now
	timeout   time.Duration
	elsewhere func(ctx context.Context, i int) ([]registry.Instance, error)
	log       *slog.Logger
	orders    chan order
	send      func(message)
	jitter    *rand.Rand

	found    []registry.Instance // what the last look showed
	reached  bool
	ever     bool            // something was found since the process started
	err      error           // what was told as wrong last
	searched time.Time       // when the last search succeeded; zero before
	wasIn    map[string]bool // instances that were in service since they were last taken out
	took     map[string]bool // those that were in service until we took them out, by ID
	warned   bool            // that nothing is registered
	// fruitless are the ports whose instance was searched for all through rejoinWindow, in vain.
	fruitless map[uint16]bool
}

func newReconciler(i int, d *Drain) *reconciler {
	o := d.options
	of := o.Registries[i]
	r := &reconciler{
		index: i, registry: of, pod: d.pod, since: d.since, send: d.send,
		timeout: o.RegistryTimeout, elsewhere: o.Elsewhere,
		log: o.Log.With("registry", of.Kind()), orders: make(chan order, 1),
		wasIn: map[string]bool{}, took: map[string]bool{}, fruitless: map[uint16]bool{},
		jitter: rand.New(rand.NewPCG(o.Seed, uint64(i))),
	}
	if o.Seed == 0 {
		r.jitter = rand.New(rand.NewPCG(rand.Uint64(), rand.Uint64()))
	}
	sameKind := func(other registry.Registry) bool { return other != of && other.Kind() == of.Kind() }
	if slices.ContainsFunc(o.Registries, sameKind) {
		r.log = r.log.With("url", of.URL())
	}
	return r
}

// give replaces the order that waits, if any. The caller has ended the context of the one that is
// being obeyed.
func (r *reconciler) give(o order) {
	select {
	case <-r.orders:
	default:
	}
	r.orders <- o
}

// run obeys orders until ctx ends.
func (r *reconciler) run(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case o := <-r.orders:
			switch o.target.want {
			case wantIn:
				r.keepIn(o)
			case wantOut:
				r.keepOut(o)
			case wantGone:
				r.forget(o)
			}
		}
	}
}

// forget deletes what is left of a dead app. It is over when it was tried: the process is about to
// end.
func (r *reconciler) forget(o order) {
	defer o.report(eventForgotten)
	ctx, cancel := context.WithTimeout(o.ctx, forgetFor)
	defer cancel()
	var err error
	if len(r.found) == 0 && r.pod().Known() {
		err = r.search(ctx)
	}
	var dead []uint16
	for _, i := range r.found {
		if !slices.Contains(o.live, i.Port) && !slices.Contains(dead, i.Port) {
			dead = append(dead, i.Port)
		}
	}
	if err == nil && len(dead) > 0 {
		r.registry.Only(dead)
		if err = r.registry.Forget(ctx); err == nil {
			r.log.Info("nothing of the Pod is left in the registry")
		}
	}
	r.note(err)
}

func (r *reconciler) search(ctx context.Context) error {
	found, err := r.registry.Find(ctx, r.pod())
	if err == nil {
		r.searched = time.Now()
	}
	return r.saw(found, err)
}

func (r *reconciler) check(ctx context.Context) error {
	found, err := r.registry.Check(ctx)
	return r.saw(found, err)
}

// saw takes what a look showed, and tells of it when it is new.
func (r *reconciler) saw(found []registry.Instance, err error) error {
	if err != nil {
		return err
	}
	if !r.reached || !slices.Equal(found, r.found) {
		r.found, r.reached, r.ever = found, true, r.ever || len(found) > 0
		r.warned = r.warned && len(found) == 0
		r.send(message{event: event{kind: eventInstances, reg: r.index, instances: slices.Clone(found)}})
	}
	return nil
}

// note keeps the last error for /status and logs it when it is a new one; a nil error ends it.
func (r *reconciler) note(err error) {
	if errors.Is(err, context.Canceled) {
		return // another order came
	}
	switch old := r.err; {
	case err == nil && old == nil:
		return
	case err == nil:
		r.log.Info("the trouble with the registry is over")
	case old != nil && old.Error() == err.Error():
		return
	default:
		r.log.Warn("trouble with the registry", "error", err)
	}
	r.err = err
	r.send(message{event: event{kind: eventTrouble, reg: r.index, err: err}})
}

func (r *reconciler) any(s registry.State) bool {
	return slices.ContainsFunc(r.found, func(i registry.Instance) bool { return i.State == s })
}

// shownNames bounds the instances that a line of the log names.
const shownNames = 10

// names lists the instances in one of the states, as service/ID.
func (r *reconciler) names(states ...registry.State) []string {
	var n []string
	for _, i := range r.found {
		if slices.Contains(states, i.State) && len(n) < shownNames {
			n = append(n, i.Service+"/"+i.ID)
		}
	}
	return n
}

// pause waits for d, give or take a quarter so that a fleet does not move in step, or until ctx
// ends.
func (r *reconciler) pause(ctx context.Context, d time.Duration) {
	wait(ctx, d*3/4+time.Duration(r.jitter.Int64N(int64(d/2))))
}
