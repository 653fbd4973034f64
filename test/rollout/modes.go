package main

import (
	"fmt"
	"slices"
	"strings"
)

// mode is a way to stop a Pod.
type mode struct {
	Name string
	// Title and Chinese say it in the table and the picture.
	Title, Chinese string
	// Shell is what the app's preStop hook runs in bash; "" for none.
	Shell string
	// Prestop adds the sidecar and has the hook call it, with these flags beside the usual ones.
	Prestop bool
	Flags   []string
}

const outOfService = `curl -sS --fail -X PUT "${EUREKA}apps/ORDERS/$POD_NAME/status?value=OUT_OF_SERVICE"; `

var modes = []mode{
	{Name: "none", Title: "no hook", Chinese: "没有 preStop"},
	{Name: "sleep35", Title: "sleep 35", Chinese: "sleep 35", Shell: "sleep 35"},
	{Name: "out35", Title: "OUT_OF_SERVICE + sleep 35", Chinese: "OUT_OF_SERVICE + sleep 35", Shell: outOfService + "sleep 35"},
	{Name: "out100", Title: "OUT_OF_SERVICE + sleep 100", Chinese: "OUT_OF_SERVICE + sleep 100", Shell: outOfService + "sleep 100"},
	{Name: "prestop", Title: "prestop", Chinese: "prestop", Prestop: true},
	{Name: "quiet", Title: "prestop --quiet-period 10s", Chinese: "prestop --quiet-period 10s", Prestop: true, Flags: []string{"--quiet-period=10s"}},
}

// pick finds modes by their names, with commas.
func pick(names string) ([]mode, error) {
	var all []mode
	for name := range strings.SplitSeq(names, ",") {
		i := slices.IndexFunc(modes, func(m mode) bool { return m.Name == name })
		if i < 0 {
			var known []string
			for _, m := range modes {
				known = append(known, m.Name)
			}
			return nil, fmt.Errorf("find the mode %q: there are %s", name, strings.Join(known, ", "))
		}
		all = append(all, modes[i])
	}
	return all, nil
}
