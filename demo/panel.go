package main

import (
	"fmt"
	"slices"
	"strings"
	"time"
)

// panel is what is drawn of one rollout: all times are seconds since the load began.
type panel struct {
	Title    text // of the way
	What     text // of the way
	Service  string
	Registry string
	Requests int
	Failed   map[failure]int
	Odd      error // the first failure of the kind other
	Rows     []row
	Seconds  float64 // how long the load has lasted
	Over     bool    // the load has ended
	// Stops is how many seconds each stopped instance took from the kubelet's decision until it was gone.
	Stops []float64
}

// row is one instance of a panel. A moment that has not come is later than the panel's end.
type row struct {
	Name                                string
	Started, Registered, Stopping, Gone float64
	Answered, Lost                      []float64 // when its requests were sent, and those that failed
}

// lost is how many requests failed.
func (p panel) lost() int {
	n := 0
	for _, k := range p.Failed {
		n += k
	}
	return n
}

// result is what was lost, in words.
func (p panel) result(l lang) string {
	if p.lost() == 0 {
		return saysNone.f(l, thousands(p.Requests))
	}
	return saysLost.f(l, thousands(p.lost()), thousands(p.Requests))
}

// share is what was lost, in numbers.
func (p panel) share() string { return thousands(p.lost()) + "/" + thousands(p.Requests) }

// verdict is the result with the reasons.
func (p panel) verdict(l lang) string {
	if p.lost() == 0 {
		return p.result(l)
	}
	var kinds []string
	for _, f := range []failure{refused, cut, other} {
		if p.Failed[f] > 0 {
			kinds = append(kinds, thousands(p.Failed[f])+" "+reasons[f].f(l))
		}
	}
	return saysWhy.f(l, thousands(p.lost()), thousands(p.Requests), strings.Join(kinds, saysComma.f(l)))
}

// stop is how long one instance took to stop, in words.
func (p panel) stop(l lang) string {
	if len(p.Stops) == 0 {
		return ""
	}
	sum := 0.0
	for _, s := range p.Stops {
		sum += s
	}
	return saysStop.f(l, scale*sum/float64(len(p.Stops)))
}

func thousands(n int) string {
	s := fmt.Sprint(n)
	for k := len(s) - 3; k > 0; k -= 3 {
		s = s[:k] + "," + s[k:]
	}
	return s
}

// panel is the rollout as it is now.
func (r *rollout) panel(now time.Time) panel {
	r.mu.Lock()
	began, ended, instances := r.began, r.ended, slices.Clone(r.instances)
	r.mu.Unlock()
	over := !ended.IsZero()
	if over {
		now = ended
	}
	p := panel{Title: r.way.title, What: r.way.what, Service: r.shop.name, Registry: r.shop.label, Failed: map[failure]int{}, Over: over}
	if began.IsZero() {
		began = now
	}
	p.Seconds = now.Sub(began).Seconds()
	at := func(t time.Time) float64 {
		if t.IsZero() {
			return p.Seconds + 1
		}
		return t.Sub(began).Seconds()
	}
	rows := map[string]int{}
	for k, i := range instances {
		l := i.lived()
		p.Rows = append(p.Rows, row{Name: strings.TrimPrefix(i.name, r.shop.name+"-"),
			Started: at(l.started), Registered: at(l.registered), Stopping: at(l.stopping), Gone: at(l.gone)})
		if !l.gone.IsZero() {
			p.Stops = append(p.Stops, l.gone.Sub(l.stopping).Seconds())
		}
		rows[i.address.String()] = k
	}
	requests, odd := r.record.all()
	p.Odd = odd
	for _, q := range requests {
		p.Requests++
		if q.failure != "" {
			p.Failed[q.failure]++
		}
		k, known := rows[q.target]
		if !known {
			continue
		}
		if q.failure == "" {
			p.Rows[k].Answered = append(p.Rows[k].Answered, at(q.at))
		} else {
			p.Rows[k].Lost = append(p.Rows[k].Lost, at(q.ended))
		}
	}
	slices.SortStableFunc(p.Rows, func(a, b row) int { return strings.Compare(order(a.Name), order(b.Name)) })
	return p
}

// order sorts the old instances above the new ones.
func order(name string) string {
	if strings.HasPrefix(name, "old") {
		return "0" + name
	}
	return "1" + name
}
