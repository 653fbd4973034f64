package nacos

import (
	"testing"
	"time"
)

func TestAFoundRecordIsAStrangersUntilItIsKnownToBeOurs(t *testing.T) {
	began := time.Unix(1_790_000_000, 0)
	soon, later := began.Add(10*time.Second), began.Add(stale)
	for name, c := range map[string]struct {
		f     finding
		since time.Time
		now   time.Time
		want  bool
	}{
		"alone at an address that has long been ours":            {finding{at: began}, began.Add(-time.Hour), soon, false},
		"alone at an address of which nothing is known":          {finding{at: began}, time.Time{}, soon, false},
		"alone at an address that is new":                        {finding{at: began}, began.Add(-time.Second), soon, true},
		"alone at a new address, and it has lasted":              {finding{at: began}, began.Add(-time.Second), later, false},
		"registered since at a new address":                      {finding{at: began, registeredSince: true}, began, began, false},
		"beside another service":                                 {finding{at: began, beside: true}, began.Add(-time.Hour), soon, true},
		"beside another service, and it has lasted":              {finding{at: began, beside: true}, began.Add(-time.Hour), later, false},
		"beside another service, registered since":               {finding{at: began, beside: true, registeredSince: true}, time.Time{}, soon, false},
		"a persistent one beside another service":                {finding{at: began, beside: true, persistent: true}, time.Time{}, began.Add(time.Hour), true},
		"a persistent one alone at an address that is long ours": {finding{at: began, persistent: true}, time.Time{}, soon, false},
	} {
		if got := c.f.strange(c.since, c.now); got != c.want {
			t.Errorf("%s: %v, want %v", name, got, c.want)
		}
	}
}

func TestOfServersThatDisagreeItIsWhatCallersAreMostLikelySentTo(t *testing.T) {
	in, out, down := record{enabled: true, healthy: true}, record{healthy: true}, record{enabled: true}
	k := key{ip: "10.0.0.1", port: 8080}
	for name, c := range map[string]struct {
		shown []record
		want  record
	}{
		"enabled here, disabled there":   {[]record{in, out}, in},
		"disabled here, enabled there":   {[]record{out, in}, in},
		"unhealthy here, enabled there":  {[]record{down, in}, in},
		"enabled here, unhealthy there":  {[]record{in, down}, in},
		"disabled here, unhealthy there": {[]record{out, down}, down},
		"unhealthy here, disabled there": {[]record{down, out}, down},
	} {
		views := []view{{err: errNotAsked}, {held: map[key]record{}}}
		for _, rec := range c.shown {
			views = append(views, view{held: map[key]record{k: rec}})
		}
		if got := merged(views, k); got == nil || *got != c.want {
			t.Errorf("%s: %+v, want %+v", name, got, c.want)
		}
	}
}
