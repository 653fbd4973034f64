package config

import (
	"context"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"testing/synctest"
	"time"
)

func TestTheTableOfSettings(t *testing.T) {
	groups := Groups()
	if len(groups) < 5 || groups[0] != everybody || slices.Contains(groups, "") {
		t.Errorf("the groups are %q", groups)
	}
	var first []string
	seen := map[string]bool{}
	for _, s := range Settings() {
		if s.Group == everybody {
			first = append(first, s.Flag)
		}
		switch {
		case seen[s.Flag]:
			t.Errorf("--%s is there twice", s.Flag)
		case (s.Group == "") != s.CommandsOnly:
			t.Errorf("--%s: the group is %q", s.Flag, s.Group)
		case s.CommandsOnly && (len(s.Of) == 0 || s.ReadBy("")):
			t.Errorf("--%s is read by nobody, or by the sidecar", s.Flag)
		case s.HintOnly && len(s.Variables) == 0, s.Usage == "":
			t.Errorf("--%s says too little: %+v", s.Flag, s)
		case Lookup(s.Flag).Usage != s.Usage:
			t.Errorf("--%s is not found", s.Flag)
		}
		seen[s.Flag] = true
	}
	if len(first) != 5 {
		t.Errorf("everybody sets %q", first)
	}
	if s := Lookup("none"); s.Flag != "" {
		t.Errorf("--none is %+v", s)
	}
	for command, want := range map[string][]string{
		"shutdown": {"listen", "token", "token-file"}, "resume": {"listen", "token", "token-file"},
		"status": {"listen", "output", "watch"},
	} {
		var got []string
		for _, s := range Settings() {
			if s.ReadBy(command) {
				got = append(got, s.Flag)
			}
		}
		if !slices.Equal(got, want) {
			t.Errorf("%s reads %q; want %q", command, got, want)
		}
	}
}

func TestAFirstTryIsOneWhereNothingIsSet(t *testing.T) {
	for sentence, c := range map[string]struct {
		env  environ
		args []string
		want bool
	}{
		"nothing":                  {nil, nil, true},
		"a variable of the app":    {environ{"PATH": "/bin", "JAVA_HOME": "/"}, nil, true},
		"a flag":                   {nil, []string{"--linger=1"}, false},
		"a setting by a variable":  {environ{"PRESTOP_LINGER": "1"}, nil, false},
		"a Pod":                    {environ{"KUBERNETES_SERVICE_HOST": "10.96.0.1"}, nil, false},
		"the address of a Pod":     {environ{"POD_IP": "10.0.0.1"}, nil, false},
		"the addresses of a Pod":   {environ{"POD_IPS": "10.0.0.1,fd00::1"}, nil, false},
		"the registry of the app":  {environ{"SPRING_CLOUD_NACOS_SERVER_ADDR": "n"}, nil, false},
		"a flag of a command only": {nil, []string{"--output=json"}, true},
	} {
		cfg, err := load("check", c.args, c.env, statefulPod())
		if err != nil || cfg.Bare != c.want {
			t.Errorf("%s: %v, %v; want %v", sentence, cfg.Bare, err, c.want)
		}
	}
}

func TestEveryTokenSinceTheStartIsGood(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		path := filepath.Join(t.TempDir(), "token")
		write := func(s string) {
			t.Helper()
			if err := os.WriteFile(path, []byte(s), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		write("one\n")
		tokens := NewTokens(Secret{file: path})
		ctx, cancel := context.WithCancel(t.Context())
		go tokens.Follow(ctx, TokenEvery)
		write("two\n") // nobody calls while it is there
		time.Sleep(TokenEvery + time.Second)
		synctest.Wait()
		write("three\n")
		if got, err := tokens.All(); err != nil || !slices.Equal(got, []string{"one", "two", "three"}) {
			t.Errorf("good are %q, %v", got, err)
		}
		write("")
		if got, err := tokens.All(); err == nil || len(got) != 3 {
			t.Errorf("with an empty file good are %q, %v", got, err)
		}
		for i := range 2 * tokensKept {
			write("token" + time.Duration(i).String())
			if got, err := tokens.All(); err != nil || len(got) > tokensKept || got[len(got)-1] != "token"+time.Duration(i).String() {
				t.Fatalf("after %d rotations: %d tokens, %v", i, len(got), err)
			}
		}
		cancel()
		synctest.Wait()
	})
	for _, s := range []Secret{{}, {value: "x"}} {
		tokens := NewTokens(s)
		tokens.Follow(t.Context(), time.Hour) // returns at once
		if got, err := tokens.All(); err != nil || len(got) != len(s.value) {
			t.Errorf("%+v: %q, %v", s, got, err)
		}
	}
}
