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
	// reassert is how often a registry is looked at while the Pod shall stay out of it: whatever undid the leave (a
	// restarted server, an app that registered again) is noticed before many callers have fetched the list. After
	// reassertFor the looks become rare: nobody waits for the drain any more.
	reassert, reassertFor = 4 * time.Second, 3 * time.Minute
	// The callers' view is looked at until it shows that the Pod left: soon, since Nacos' changes in half a second, and
	// then less often, since Eureka's takes up to half a minute and a fleet may be asking.
	observeFirst, observe = 700 * time.Millisecond, 3 * time.Second
	// searchPatience is how long a deregistration is held back by a search for further instances that fails.
	searchPatience = 3 * time.Second
	// rejoinWindow is how long after its port began to listen an instance found disabled is taken for a leftover of ours:
	// Nacos keeps the mark for some 65 s after the instance went, Eureka for as long as the new one heartbeats. Later it is
	// somebody's decision, and not ours to undo, if the instance was in service before.
	rejoinWindow = 2 * time.Minute
	// firstLook is when a registry is looked at again after a change; each wait is twice as long as the one before, up to
	// idleLook, which is how often it is looked at while nothing happens; with jitter.
	firstLook, idleLook = 500 * time.Millisecond, time.Minute
	// lateLook bounds the waits for an app that listens and has not registered yet, within rejoinWindow.
	lateLook = 10 * time.Second
	// emptySearch is how often a registry is searched that held nothing of the Pod during a drain.
	emptySearch = 20 * time.Second
	// rareSearch is how often the whole list is searched at the most once something was found, but for a new port.
	rareSearch = 10 * time.Minute
	// elsewhereAfter is how long an app may listen before it is worth a warning that it is registered nowhere.
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
	// report tells the machine how far it is; reports of an order that another replaced are dropped there.
	report func(eventKind)
	// observe: the end of the linger depends on when the registry's callers can see the change.
	observe bool
}

// reconciler brings one registry to its target, and keeps it there. It is the only one that uses it.
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
	wasIn    map[string]bool // the instances that were seen in service since they were last taken out, by ID
	took     map[string]bool // those that were in service until we took them out, by ID
	warned   bool            // that nothing is registered
	// fruitless are the ports whose instance was searched for all through rejoinWindow, in vain.
	fruitless map[uint16]bool
}

func newReconciler(i int, d *Drain) *reconciler {
	o := d.options
	r := o.Registries[i]
	k := &reconciler{
		index: i, registry: r, pod: d.pod, since: d.since, send: d.send, timeout: o.RegistryTimeout, elsewhere: o.Elsewhere,
		orders: make(chan order, 1), wasIn: map[string]bool{}, took: map[string]bool{}, fruitless: map[uint16]bool{}, log: o.Log.With("registry", r.Kind()),
		jitter: rand.New(rand.NewPCG(o.Seed, uint64(i))),
	}
	if o.Seed == 0 {
		k.jitter = rand.New(rand.NewPCG(rand.Uint64(), rand.Uint64()))
	}
	if slices.ContainsFunc(o.Registries, func(other registry.Registry) bool { return other != r && other.Kind() == r.Kind() }) {
		k.log = k.log.With("url", r.URL())
	}
	return k
}

// give replaces the order that waits, if any. The caller has ended the context of the one that is being obeyed.
func (k *reconciler) give(o order) {
	select {
	case <-k.orders:
	default:
	}
	k.orders <- o
}

// run obeys orders until ctx ends.
func (k *reconciler) run(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case o := <-k.orders:
			switch o.target.want {
			case wantIn:
				k.keepIn(o)
			case wantOut:
				k.keepOut(o)
			case wantGone:
				k.forget(o)
			}
		}
	}
}

// departure is one order to keep the Pod out, as far as it has come.
type departure struct {
	order
	began time.Time
	// trying ends when the time to try to leave is over.
	trying context.Context
	done   context.CancelFunc
	// left is when it was reported as out; read while out.
	left        time.Time
	out, gaveUp bool
	// watched: publication was reported, or nobody asked for it. glance is the wait before the next look at it, and
	// unseen since when the callers' view could not be read.
	watched bool
	glance  time.Duration
	unseen  time.Time
	// ports are those that were searched for; another one that listens since is searched for anew.
	ports    []uint16
	searched bool
	checked  bool // what is held has been looked at since the order came
}

// keepOut leaves, reports when that is read back and when callers can see it, and leaves again when it was undone.
func (k *reconciler) keepOut(o order) {
	clear(k.wasIn)
	k.registry.Only(nil)
	d := &departure{order: o, began: time.Now()}
	d.try(k.timeout)
	defer func() { d.done() }()
	for o.ctx.Err() == nil {
		k.keepOutOnce(d)
	}
}

// try begins the time in which the registry must be left.
func (d *departure) try(timeout time.Duration) {
	if d.done != nil {
		d.done()
	}
	d.out, d.gaveUp, d.watched, d.glance = false, false, !d.observe, observeFirst
	d.trying, d.done = context.WithTimeout(d.ctx, timeout)
}

// keepOutOnce is one round: take out what is in, look what callers see, and wait.
func (k *reconciler) keepOutOnce(d *departure) {
	ctx, cancel := d.trying, context.CancelFunc(func() {})
	if d.out || d.gaveUp {
		ctx, cancel = context.WithTimeout(d.ctx, k.timeout)
	}
	err := k.takeOut(ctx, d)
	k.note(err)
	switch {
	case err == nil && !d.out:
		d.out, d.left = true, time.Now()
		k.reportOut(d)
	case err != nil && !d.out && !d.gaveUp && d.ctx.Err() == nil && (registry.IsFinal(err) || d.trying.Err() != nil):
		d.gaveUp = true
		k.log.Error("could not take the instance out of the registry; going on without", "after", time.Since(d.began), "error", err)
		d.report(eventGaveUp)
	}
	if d.out && !d.watched {
		k.watch(ctx, d)
	}
	cancel()
	switch {
	case !d.out && d.gaveUp:
		k.pause(d.ctx, reassert)
	case !d.out:
		k.pause(d.trying, time.Second)
	case !d.watched, k.mayRegister(0):
		k.pause(d.ctx, d.glance)
		d.glance = min(2*d.glance, observe)
	case time.Since(d.began) > reassertFor:
		k.pause(d.ctx, idleLook)
	default:
		k.pause(d.ctx, reassert)
	}
}

// takeOut brings every instance out. What is known is left at once, without asking before; then the registry is searched,
// so that one that has registered meanwhile is out before the linger begins.
func (k *reconciler) takeOut(ctx context.Context, d *departure) error {
	if len(k.found) > 0 && !d.checked {
		if err := k.leave(ctx); err != nil {
			return err
		}
		d.checked = true
	}
	known := map[string]bool{}
	for _, i := range k.found {
		known[i.ID] = true
	}
	err := k.look(ctx, d)
	if err != nil && d.checked && !d.searched && !d.out && (registry.IsFinal(err) || time.Since(d.began) >= searchPatience) {
		k.log.Warn("cannot search the registry for further instances; those that are known are out", "error", err)
		d.searched, d.ports, err = true, k.pod().Ports, nil
	}
	if err != nil {
		return err
	}
	d.checked = true
	if !k.any(registry.In) {
		return nil
	}
	if d.out {
		if slices.ContainsFunc(k.found, func(i registry.Instance) bool { return i.State == registry.In && known[i.ID] }) {
			k.log.Warn("the registry shows the instance in service again; taking it out once more", "instances", k.names(registry.In))
			d.report(eventUndone)
		} else {
			k.log.Info("an instance has registered since; taking it out too", "instances", k.names(registry.In))
			d.report(eventLate)
		}
		d.try(k.timeout)
	}
	return k.leave(ctx)
}

// mayRegister reports whether the registry is worth another search: a port began to listen since the
// last one, or so lately that its instance may still come.
func (k *reconciler) mayRegister(again time.Duration) bool {
	for port, since := range k.since() {
		known := slices.ContainsFunc(k.found, func(i registry.Instance) bool { return i.Port == port })
		late := time.Since(since) < rejoinWindow && time.Since(k.searched) > again
		if !known && (late || k.searched.Before(since)) {
			return true
		}
	}
	return false
}

// look learns what the registry holds: by a search at first, and where it was empty, another port
// listens since, or an instance may still come; else by asking for what is known.
func (k *reconciler) look(ctx context.Context, d *departure) error {
	pod := k.pod()
	again := emptySearch
	if time.Since(d.began) > reassertFor {
		again = rareSearch
	}
	switch {
	case !d.searched, !slices.Equal(pod.Ports, d.ports), k.mayRegister(min(again, reassert)),
		len(k.found) == 0 && time.Since(k.searched) > again:
		err := k.search(ctx)
		if err == nil {
			d.searched, d.ports = true, pod.Ports
		}
		return err
	case len(k.found) == 0:
		return nil
	}
	return k.check(ctx)
}

func (k *reconciler) leave(ctx context.Context) error {
	for _, i := range k.found {
		if i.State == registry.In {
			k.took[i.ID] = true
		}
	}
	if err := k.registry.Leave(ctx); err != nil {
		return err
	}
	return k.check(ctx)
}

func (k *reconciler) reportOut(d *departure) {
	took := time.Since(d.began)
	if len(k.found) > 0 {
		k.log.Info("left the registry", "took", took, "instances", k.names(registry.Out))
		d.report(eventOut)
		return
	}
	k.log.Info("the registry holds no instance of this Pod; nothing to leave", "took", took, "address", k.pod().Addresses, "ports", k.pod().Ports)
	d.report(eventEmpty)
	if d.serves {
		k.warnOfNothing(d.ctx)
	}
}

// watch looks once at the callers' view, and ends that when it shows the change or cannot be read. Its last word says what
// was observed and what is assumed.
func (k *reconciler) watch(ctx context.Context, d *departure) {
	seen, err := k.registry.Published(ctx)
	afterPublished, afterLeave := k.registry.Linger()
	switch {
	case err == nil && seen:
		k.log.Info("what callers read shows that the instance left", "observed", time.Since(d.left).Round(time.Millisecond).String()+" after the leave, on every server that answers",
			"servers", k.registry.URL(), "assumed", "callers' own caches: "+afterPublished.String()+" from now")
		d.report(eventPublished)
		d.watched = true
		return
	case err == nil:
		d.unseen = time.Time{}
		return
	case d.ctx.Err() != nil:
		return
	case d.unseen.IsZero():
		d.unseen = time.Now()
	}
	if registry.IsFinal(err) || time.Since(d.unseen) >= k.timeout {
		k.log.Warn("cannot see what callers read; waiting the longest time that it can take", "servers", k.registry.URL(),
			"assumed", "the servers' and the callers' caches: "+afterLeave.String()+" from the leave", "error", err)
		d.report(eventBlind)
		d.watched = true
	}
}

// keepIn finds the instances, puts back what an earlier incarnation or a drain left disabled, takes out those whose port is
// gone, and then looks now and then.
func (k *reconciler) keepIn(o order) {
	defer k.registry.Only(nil)
	began, wait := time.Now(), firstLook
	registered := false
	for o.ctx.Err() == nil {
		if !k.pod().Known() {
			o.report(eventIn)
			<-o.ctx.Done() // the app has never listened: nothing can be ours yet, and another order comes when it does
			return
		}
		ctx, cancel := context.WithTimeout(o.ctx, k.timeout)
		changed, err := k.keepInOnce(ctx, o)
		cancel()
		k.note(err)
		if err == nil {
			if !registered && k.any(registry.In) {
				registered = true
				k.log.Info("registered", "instances", k.names(registry.In, registry.Down))
			}
			o.report(eventIn)
			k.remember(o)
		}
		if changed {
			wait = firstLook // see that it lasts
		}
		k.pause(o.ctx, wait)
		wait = min(2*wait, idleLook)
		if len(k.found) == 0 && o.awaits() || err != nil && time.Since(began) < rejoinWindow {
			wait = min(wait, lateLook) // an app that starts slowly registers late, and a registry's trouble passes
		}
		if len(k.found) == 0 && o.serves && o.listensFor(elsewhereAfter) {
			k.warnOfNothing(o.ctx)
		}
	}
}

// awaits reports whether a port began to listen so lately that its instance may still register.
func (o order) awaits() bool {
	for _, since := range o.target.since {
		if time.Since(since) < rejoinWindow {
			return true
		}
	}
	return time.Since(o.target.serving) < rejoinWindow && o.target.since == nil
}

// listensFor reports whether the app has listened for so long.
func (o order) listensFor(d time.Duration) bool {
	for _, since := range o.target.since {
		if time.Since(since) >= d {
			return true
		}
	}
	return false
}

// keepInOnce looks once and changes what is not as it shall be.
func (k *reconciler) keepInOnce(ctx context.Context, o order) (changed bool, err error) {
	if err := k.lookIn(ctx, o); err != nil {
		return false, err
	}
	if dead := k.portsOf(registry.In, o.dead); len(dead) > 0 {
		k.registry.Only(dead)
		if err := k.leave(ctx); err != nil {
			return false, err
		}
		k.log.Info("took the instances out whose port is not listened on any more", "ports", dead)
		changed = true
	}
	back := k.portsOf(registry.Out, o.ours(k))
	if len(back) > 0 {
		if err := k.rejoin(ctx, back); err != nil {
			return changed, err
		}
		changed = true
	}
	if len(k.portsOf(registry.Out, func(i registry.Instance) bool { return k.wants(o, i) && k.wasIn[i.ID] && !o.lately(i) })) > 0 {
		return changed, errDisabled
	}
	return changed, nil
}

// errDisabled is shown as the registry's state when somebody else disabled the instance.
var errDisabled = errors.New("the instance is disabled, and not by prestop; enable it in the registry's console, or call /resume")

func (o order) dead(i registry.Instance) bool { return slices.Contains(o.target.dead, i.Port) }

// wants reports whether the instance shall be in: somebody listens on its port, or it was in service
// until we took it out, so that the app is reached through it.
func (k *reconciler) wants(o order, i registry.Instance) bool {
	return !o.dead(i) && (k.took[i.ID] || !slices.Contains(o.target.held, i.Port))
}

// lately reports whether the instance's port, or the Pod, began to serve within rejoinWindow.
func (o order) lately(i registry.Instance) bool {
	return time.Since(later(o.target.serving, o.target.since[i.Port])) < rejoinWindow
}

// ours tells which disabled instances are ours to put in: leftovers, and those that we took out ourselves.
func (o order) ours(k *reconciler) func(registry.Instance) bool {
	return func(i registry.Instance) bool { return k.wants(o, i) && (!k.wasIn[i.ID] || o.lately(i)) }
}

// portsOf returns the ports of the instances in the state for which ok holds.
func (k *reconciler) portsOf(s registry.State, ok func(registry.Instance) bool) []uint16 {
	var ports []uint16
	for _, i := range k.found {
		if i.State == s && ok(i) && !slices.Contains(ports, i.Port) {
			ports = append(ports, i.Port)
		}
	}
	return ports
}

// remember notes which instances are in service, and which we have taken out.
func (k *reconciler) remember(o order) {
	for _, i := range k.found {
		switch {
		case i.State == registry.In:
			k.wasIn[i.ID] = true
			delete(k.took, i.ID)
		case o.dead(i):
			delete(k.wasIn, i.ID)
		}
	}
}

// lookIn searches for the instances until they were found, and then asks for just these: a search may be megabytes.
func (k *reconciler) lookIn(ctx context.Context, o order) error {
	if k.searchIn(o) {
		return k.search(ctx)
	}
	if len(k.found) == 0 {
		return nil
	}
	return k.check(ctx)
}

// searchIn reports whether the registry is to be searched: nothing is known yet; a port began to listen a short while ago
// that no instance is known of; or one has vanished and the last search is long ago. While nothing listens, nothing can
// have registered but what did before the port was gone.
func (k *reconciler) searchIn(o order) bool {
	since := time.Since(k.searched)
	switch {
	case k.searched.IsZero():
		return true
	case len(o.target.since) == 0 && o.target.since != nil && !k.pod().AnyPort:
		return since >= rareSearch && len(k.found) == 0 || k.searched.Before(o.target.newest)
	case len(k.found) == 0 && !k.ever:
		return true
	}
	for port, began := range o.target.since {
		if slices.ContainsFunc(k.found, func(i registry.Instance) bool { return i.Port == port }) {
			delete(k.fruitless, port)
			continue
		}
		switch {
		case k.fruitless[port]: // it listened before, and was never registered
		case time.Since(began) < rejoinWindow || k.searched.Before(began):
			return true
		default:
			k.fruitless[port] = true
		}
	}
	return since >= rareSearch && (len(k.found) == 0 || k.any(registry.Absent))
}

func (k *reconciler) rejoin(ctx context.Context, ports []uint16) error {
	names := k.names(registry.Out)
	began := time.Now()
	k.registry.Only(ports)
	if err := k.registry.Rejoin(ctx); err != nil {
		return err
	}
	if err := k.check(ctx); err != nil {
		return err
	}
	k.log.Info("rejoined the registry", "took", time.Since(began), "instances", names)
	return nil
}

// forget deletes what is left of a dead app. It is over when it was tried: the process is about to end.
func (k *reconciler) forget(o order) {
	defer o.report(eventForgotten)
	ctx, cancel := context.WithTimeout(o.ctx, forgetFor)
	defer cancel()
	var err error
	if len(k.found) == 0 && k.pod().Known() {
		err = k.search(ctx)
	}
	var dead []uint16
	for _, i := range k.found {
		if !slices.Contains(o.live, i.Port) && !slices.Contains(dead, i.Port) {
			dead = append(dead, i.Port)
		}
	}
	if err == nil && len(dead) > 0 {
		k.registry.Only(dead)
		if err = k.registry.Forget(ctx); err == nil {
			k.log.Info("nothing of the Pod is left in the registry")
		}
	}
	k.note(err)
}

// warnOfNothing says, once until something is found, that the registry holds nothing of an app that serves, and what it
// holds at the Pod's address instead.
func (k *reconciler) warnOfNothing(ctx context.Context) {
	if k.warned || !k.reached {
		return
	}
	k.warned = true
	pod := k.pod()
	args := []any{"address", pod.Addresses, "names", pod.Names, "ports", pod.Ports}
	if k.elsewhere != nil {
		ctx, cancel := context.WithTimeout(ctx, k.timeout)
		defer cancel()
		if others, err := k.elsewhere(ctx, k.index); err == nil && len(others) > 0 {
			var names []string
			for _, i := range others[:min(len(others), shownNames)] {
				names = append(names, i.Service+"/"+i.ID)
			}
			k.log.Warn("the app serves, and the registry holds it under no port that it listens on: callers are not told of a drain; set --port to the registered port beside the app's", append(args, "registered", names)...)
			return
		}
	}
	k.log.Warn("the app serves, and the registry holds nothing at the Pod's address: callers are not told of a drain; see prestop check", args...)
}

func (k *reconciler) search(ctx context.Context) error {
	found, err := k.registry.Find(ctx, k.pod())
	if err == nil {
		k.searched = time.Now()
	}
	return k.saw(found, err)
}

func (k *reconciler) check(ctx context.Context) error {
	found, err := k.registry.Check(ctx)
	return k.saw(found, err)
}

// saw takes what a look showed, and tells of it when it is new.
func (k *reconciler) saw(found []registry.Instance, err error) error {
	if err != nil {
		return err
	}
	if !k.reached || !slices.Equal(found, k.found) {
		k.found, k.reached, k.ever = found, true, k.ever || len(found) > 0
		k.warned = k.warned && len(found) == 0
		k.send(message{event: event{kind: eventInstances, reg: k.index, instances: slices.Clone(found)}})
	}
	return nil
}

// note keeps the last error for /status and logs it when it is a new one; a nil error ends it.
func (k *reconciler) note(err error) {
	if errors.Is(err, context.Canceled) {
		return // another order came
	}
	switch old := k.err; {
	case err == nil && old == nil:
		return
	case err == nil:
		k.log.Info("the trouble with the registry is over")
	case old != nil && old.Error() == err.Error():
		return
	default:
		k.log.Warn("trouble with the registry", "error", err)
	}
	k.err = err
	k.send(message{event: event{kind: eventTrouble, reg: k.index, err: err}})
}

func (k *reconciler) any(s registry.State) bool {
	return slices.ContainsFunc(k.found, func(i registry.Instance) bool { return i.State == s })
}

// shownNames bounds the instances that a line of the log names.
const shownNames = 10

// names lists the instances in one of the states, as service/ID.
func (k *reconciler) names(states ...registry.State) []string {
	var n []string
	for _, i := range k.found {
		if slices.Contains(states, i.State) && len(n) < shownNames {
			n = append(n, i.Service+"/"+i.ID)
		}
	}
	return n
}

// pause waits for d, give or take a quarter so that a fleet does not move in step, or until ctx ends.
func (k *reconciler) pause(ctx context.Context, d time.Duration) {
	wait(ctx, d*3/4+time.Duration(k.jitter.Int64N(int64(d/2))))
}
