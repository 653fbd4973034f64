package drain

import (
	"maps"
	"slices"
	"time"

	"prestop/drain/conns"
	"prestop/registry"
)

// This file is what the state machine knows, and what may happen to it.

// phase is where the drain stands; its String is the state in /status.
type phase int

const (
	serving phase = iota
	draining
	drained
	expired
	// forgotten: told to stop, the app is dead; what the registries still hold of it is being
	// deleted.
	forgotten
)

func (p phase) String() string {
	return [...]string{"serving", "draining", "drained", "expired", "forgotten"}[p]
}

// want is what the registries shall be made to say.
type want int

const (
	wantIn   want = iota
	wantOut       // disabled
	wantGone      // deleted: only ever for a dead app
)

// target is what a registry shall be made to say of the Pod's instances.
type target struct {
	want want
	// dead are ports on which nobody listens any more: with wantIn their instances are kept out.
	// held are ports on which nobody has listened yet: with wantIn their instances are left as they
	// are.
	dead, held []uint16
	// since tells of each port that listens since when; with wantIn. nil: the sockets cannot be
	// seen.
	since map[uint16]time.Time
	// past tells of each port that is gone since when it is; with wantIn.
	past map[uint16]time.Time
	// serving is since when the Pod has been serving; with wantIn.
	serving time.Time
}

func (t target) equal(o target) bool {
	return t.want == o.want && slices.Equal(t.dead, o.dead) && slices.Equal(t.held, o.held) &&
		maps.Equal(t.since, o.since) && maps.Equal(t.past, o.past) && t.serving.Equal(o.serving)
}

// regState is what was reported of one registry since its target changed last.
type regState struct {
	// left is when every server that answers was read back as out; zero while it is not.
	left time.Time
	// published is when what callers read was seen to show it; zero while it is not.
	published time.Time
	// gaveUp is when the time to try to leave was over; zero before and after it worked in the end.
	gaveUp time.Time
	// blind: publication cannot be seen at this registry, so the longest time counts from left.
	blind bool
	// held: it was seen to hold an instance of the Pod, now or earlier, so that callers may know
	// it. It outlives the target.
	held bool
	// in: every instance found in it is as the target wants it.
	in bool
	// forgot: nothing of the Pod is left in it, or the attempt is over.
	forgot bool
}

// regView is what was last seen of one registry, whatever its target.
type regView struct {
	instances []registry.Instance
	// err is what is wrong with it; nil while all is well.
	err error
	// reached: it has answered since the process started.
	reached bool
	// undone is how often it put the Pod back in during a drain.
	undone int
}

// state is all that decisions are made from, and all that others may read.
type state struct {
	phase phase
	since time.Time // of the phase
	// ports of the Pod; looked is when they were last looked at, zero before the first look.
	// unseen: they cannot be.
	ports  ports
	looked time.Time
	unseen bool
	// app is what the ports say together, and appSince when it became so.
	app      appState
	appSince time.Time
	// drains is how many have begun; began, deadline and cause belong to the newest of them.
	drains          int
	began, deadline time.Time
	cause           cause
	// result is how that drain ended; "" while it runs and before the first.
	result Result
	// joined: a hook belongs to that drain. unhooked: SIGTERM began it, and no hook came within
	// hookSoon.
	joined, unhooked bool
	// relapsed: an instance was in service again after that drain was over, so that callers may know
	// it: the next hook has to wait for them.
	relapsed bool
	// told is when the newest report of a registry arrived: what a count from before shows was not
	// known to be enough.
	told time.Time
	// hooked: somebody has called the hook. met: a connection was open during the drain.
	hooked, met bool
	// stopping: SIGTERM has arrived. stopBy is when the process ends whatever else is true.
	stopping bool
	stopBy   time.Time
	// counted is the newest tally; a zero Began means that there is none.
	counted tally
	// last is the newest count, of this drain or before; busy the newest with a connection in use.
	last, busy conns.Tally
	regs       []regState
	views      []regView
}

// tally is what the machine needs of a count.
type tally struct {
	began        time.Time
	open, active int
	// heard is the last moment at which a client may have sent data; zero while that is not known.
	heard time.Time
	// none: there is no source that can count.
	none bool
	// whole is the count itself, for those who read the state.
	whole conns.Tally
}

// cause is what started a drain.
type cause string

const (
	causeHook    cause = "hook"
	causeSIGTERM cause = "SIGTERM"
	// causePod: prestop's own hook was called, so the Pod goes and not just a container.
	causePod cause = "pod"
)

// eventKind is what happened.
type eventKind int

const (
	// eventHook: somebody called /shutdown.
	eventHook eventKind = iota
	// eventStopping: prestop's own preStop hook was called.
	eventStopping
	// eventSIGTERM: SIGTERM or SIGINT arrived.
	eventSIGTERM
	// eventResume: somebody called /resume.
	eventResume
	// eventSockets: the listening sockets were looked at.
	eventSockets
	// eventCount: the connections were counted.
	eventCount
	// eventInstances: a registry was looked at. eventTrouble: what is wrong with it changed.
	eventInstances
	eventTrouble
	// The next ones report how far a registry is with its target. eventOut: every instance was read
	// back as out.
	eventOut
	// eventEmpty: it holds no instance of the Pod.
	eventEmpty
	// eventPublished: what callers read shows the change.
	eventPublished
	// eventBlind: publication cannot be observed.
	eventBlind
	// eventUndone: something put the Pod back in. eventLate: an instance of the Pod has registered
	// since.
	eventUndone
	eventLate
	// eventGaveUp: the time to try to leave is over.
	eventGaveUp
	// eventIn: every instance is as it shall be, or there is none yet.
	eventIn
	// eventForgotten: nothing of the Pod is left, or the attempt is over.
	eventForgotten
	// eventTick: time went by.
	eventTick
)

// event is one thing that happened, with what was seen.
type event struct {
	kind eventKind
	// reg is the index of the registry, for the kinds that tell of one.
	reg int
	// sockets and looked (when the look before was made) belong to eventSockets.
	sockets []socket
	looked  time.Time
	// tally belongs to eventCount.
	tally tally
	// instances belong to eventInstances, err to eventTrouble.
	instances []registry.Instance
	err       error
}

// policy is the settings that decisions depend on.
type policy struct {
	// budget is the time from the beginning of a drain to its deadline.
	budget time.Duration
	// linger is --linger; negative means by registry.
	linger time.Duration
	// quiet is --quiet-period; 0 means that nothing ends the linger early.
	quiet time.Duration
	// afterPublished and afterLeave are each registry's Linger.
	afterPublished, afterLeave []time.Duration
	// threshold is the number of connections in use at which the drain is over.
	threshold int
}

// start is the state of a Drain that has seen nothing yet.
func start(given []uint16, unseen bool, registries int, now time.Time) state {
	s := state{
		since: now, appSince: now, ports: newPorts(given, now), unseen: unseen,
		regs: make([]regState, registries), views: make([]regView, registries),
	}
	s.app = s.appNow()
	return s
}

func (s state) appNow() appState {
	if s.unseen {
		return appUnseen
	}
	return s.ports.state()
}
