package nacos

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/url"
	"slices"
	"strings"
	"time"

	"prestop/registry"
	"prestop/registry/client"
)

// change is a change of some records, as it is made once. nil says that a server has taken each.
type change func(context.Context) error

// settle makes a change of records and returns when every server that answers shows it of each, as
// good tells (nil: not held). It makes the change again until ctx ends, ever more rarely, and never
// without having read back what the last attempt did.
func (r *Registry) settle(
	ctx context.Context, what string, records []record, change change, good func(*record) bool,
) error {
	back := readBack{r: r, records: records, good: good}
	for pause := rebuilt; ; pause = min(2*pause, raft) {
		unsure := r.attempt(ctx, change, &back)
		switch {
		case registry.IsFinal(unsure):
			return unsure
		case unsure != nil && ctx.Err() != nil:
			return r.unsettled(what, ended(ctx, unsure), records)
		}
		if len(records) == 0 && unsure == nil {
			return nil
		}
		first := pause/2 + rand.N(pause/2+1)
		if unsure == nil {
			first = rebuilt
			if g := r.knownAPI(); g != nil && g.listsAtOnce() {
				first = 0
			}
		}
		pending, err := back.until(ctx, first, unsure != nil)
		switch {
		case err == nil && len(pending) == 0 && len(records) > 0:
			return nil
		case registry.IsFinal(err):
			return err
		case ctx.Err() != nil:
			return r.unsettled(what, ended(ctx, cmp.Or(unsure, err)), pending)
		}
	}
}

// ended is ctx's error, with what failed last.
func ended(ctx context.Context, last error) error {
	if last == nil || errors.Is(last, ctx.Err()) {
		return cmp.Or(last, ctx.Err())
	}
	return fmt.Errorf("%w, last: %w", ctx.Err(), last)
}

// attempt makes a change and waits for the answers as long as its server is seen to be alive: a
// server may wait for its cluster, and a second write would only make that longer. It returns early
// when that server shows the change. An error that is not final leaves open what was changed, and
// has the next change go to another server.
func (r *Registry) attempt(ctx context.Context, change change, back *readBack) error {
	changing, cancel := context.WithCancel(ctx)
	defer cancel()
	ended := make(chan error, 1)
	go func() { ended <- change(changing) }()
	for pause := slow; ; pause *= 2 {
		server := r.writer()
		select {
		case err := <-ended:
			if err != nil {
				r.nextWriter(server)
			}
			return err
		case <-time.After(pause):
		}
		looking, done := context.WithTimeout(ctx, slow)
		view := r.lookAt(looking, []*url.URL{server}, r.look)[0]
		done()
		if view.err == nil && !back.holds(view) {
			continue // it is alive, and waits for its cluster
		}
		cancel()
		err := <-ended
		switch {
		case view.err == nil || err == nil:
			return nil // the change is there
		case ctx.Err() != nil:
			return err
		}
		r.nextWriter(server)
		return &registry.Error{Op: "change instances", URL: registry.Redact(server), Err: errSilent}
	}
}

// errSilent is why a change is not waited for any longer.
var errSilent = errors.New("no answer, and the server does not answer another call either")

// readBack looks at servers until each that answers shows what is good of all records.
type readBack struct {
	r       *Registry
	records []record
	good    func(*record) bool
}

// shows reports whether one server shows what is good of all records.
func (b *readBack) shows(v view) bool { return len(b.pending([]view{v})) == 0 }

// holds reports whether one server holds all records and shows what is good of each.
func (b *readBack) holds(v view) bool {
	return b.shows(v) && !slices.ContainsFunc(b.records, func(rec record) bool {
		_, held := v.held[rec.key]
		return !held
	})
}

// pending are the records that a server shows otherwise.
func (b *readBack) pending(views []view) []record {
	return slices.DeleteFunc(slices.Clone(b.records), func(rec record) bool {
		return settled(views, rec.key, b.good)
	})
}

// until looks after pause for the first time and then again, for repeat or, once, until a server
// has answered. A server that has shown what is good is not asked again. It returns the records
// that are still pending, and an error if no server has answered.
func (b *readBack) until(
	ctx context.Context, pause time.Duration, once bool,
) (pending []record, err error) {
	views := make([]view, len(b.r.servers))
	for i := range views {
		views[i].err = errNotAsked
	}
	next := poll
	for end := time.Now().Add(pause + repeat); time.Now().Before(end); pause, next = next, 2*next {
		if err := client.Wait(ctx, pause); err != nil {
			return b.pending(views), err
		}
		var asked []*url.URL
		var at []int
		for i, s := range b.r.servers {
			if views[i].err != nil || !b.shows(views[i]) {
				asked, at = append(asked, s), append(at, i)
			}
		}
		for i, v := range b.r.lookAt(ctx, asked, b.r.look) {
			if v.err != nil && ctx.Err() != nil {
				return b.pending(views), v.err // it was not given its time: it is not done without
			}
			views[at[i]] = v
		}
		pending, err = b.pending(views), failed(views)
		if err == nil && len(pending) == 0 {
			b.r.learn(views)
			return nil, nil
		}
		if registry.IsFinal(err) || once && err == nil {
			return pending, err
		}
	}
	return pending, err
}

// errNotAsked is in the view of a server that has not been looked at.
var errNotAsked = errors.New("not asked yet")

// unsettled says which records have not been read back as they should be.
func (r *Registry) unsettled(what string, cause error, pending []record) error {
	ids := make([]string, 0, len(pending))
	for _, rec := range pending {
		ids = append(ids, r.id(rec.key))
	}
	if len(ids) > 5 {
		ids = append(ids[:5], fmt.Sprintf("and %d more", len(pending)-5))
	}
	op := "read back as " + what + " " + strings.Join(ids, ", ")
	return &registry.Error{Op: op, URL: r.url, Err: cause}
}
