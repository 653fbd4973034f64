package registry_test

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"testing"

	"prestop/registry"
)

func TestAnErrorSaysWhatWhereWhyAndWhatToDo(t *testing.T) {
	cause := errors.New("connection refused")
	for want, e := range map[string]*registry.Error{
		"leave at http://a:8761/eureka/: connection refused":                {Err: cause},
		"leave at http://a:8761/eureka/: status 500":                        {Code: 500},
		"leave at http://a:8761/eureka/: status 401: no user (give a user)": {Code: 401, Err: errors.New("no user"), Remedy: "give a user"},
		"leave at http://a:8761/eureka/: status 403 (give a role)":          {Code: 403, Remedy: "give a role"},
	} {
		e.Op, e.URL = "leave", "http://a:8761/eureka/"
		if e.Error() != want {
			t.Errorf("got  %s\nwant %s", e, want)
		}
	}
	if e := (&registry.Error{Err: fmt.Errorf("waited: %w", context.DeadlineExceeded)}); !errors.Is(e, context.DeadlineExceeded) {
		t.Error("the cause is not wrapped")
	}
}

func TestOnlyWhatIsFinalEverywhereIsFinal(t *testing.T) {
	final, passing := &registry.Error{Code: 401, Final: true}, &registry.Error{Code: 500}
	for name, c := range map[string]struct {
		err  error
		want bool
	}{
		"nil":                       {nil, false},
		"another error":             {errors.New("x"), false},
		"a final one":               {final, true},
		"a passing one":             {passing, false},
		"wrapped":                   {fmt.Errorf("eureka: %w", final), true},
		"all final":                 {errors.Join(final, final), true},
		"one may pass":              {errors.Join(final, passing), false},
		"one may pass, wrapped":     {fmt.Errorf("eureka: %w", errors.Join(final, passing)), false},
		"joins of joins":            {errors.Join(errors.Join(final), errors.Join(final)), true},
		"one may pass, deep inside": {errors.Join(final, errors.Join(final, passing)), false},
		"joined with another error": {errors.Join(final, context.Canceled), false},
	} {
		if got := registry.IsFinal(c.err); got != c.want {
			t.Errorf("%s: %v, want %v", name, got, c.want)
		}
	}
}

func TestAShownURLHoldsNothingSecret(t *testing.T) {
	u, err := url.Parse("https://user:geheim@host:8443/eureka/?token=geheim#geheim")
	if err != nil {
		t.Fatal(err)
	}
	if got := registry.Redact(u); got != "https://host:8443/eureka/" {
		t.Errorf("got %s", got)
	}
	if u.User == nil {
		t.Error("the URL itself has lost its user")
	}
}
