package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"

	"prestop/internal/config"
)

// tellNotes tells what is odd in the environment of a call.
func tellNotes(notes []string, stderr io.Writer) {
	for _, n := range notes {
		fmt.Fprintln(stderr, "prestop: going on without:", n)
	}
}

func shutdown(c config.Config, stdout, stderr io.Writer) int {
	tellNotes(c.Notes, stderr)
	code, body, err := ask(context.Background(), c.HTTP, "/shutdown")
	if errors.Is(err, errInterrupted) {
		fmt.Fprintf(stderr,
			"prestop: interrupted, but the drain goes on%s; prestop resume cancels it\n",
			stillWaits(c.HTTP))
		return exitFailed
	}
	if err != nil {
		fmt.Fprintln(stderr, "prestop:", err)
		return exitFailed
	}
	switch verdict, _, _ := strings.Cut(body, " "); {
	case code == http.StatusOK && verdict == "OK":
		fmt.Fprintln(stdout, body)
		return exitOK
	case code == http.StatusGatewayTimeout && verdict == "EXPIRED":
		fmt.Fprintln(stdout, body)
		return exitExpired
	case code == http.StatusServiceUnavailable && verdict == "CANCELLED":
		fmt.Fprintln(stdout, body)
		return exitCancelled
	}
	return otherAnswer(c.HTTP, code, body, stdout, stderr)
}

// otherAnswer tells of an answer that is none of those of the hook, or not prestop's at all.
func otherAnswer(c config.HTTP, code int, body string, stdout, stderr io.Writer) int {
	switch code {
	case http.StatusUnauthorized, http.StatusServiceUnavailable:
		fmt.Fprintln(stdout, body)
	default:
		fmt.Fprintln(stderr, "prestop:", notPrestop(c))
	}
	return exitFailed
}

// stillWaits says what the drain of the running sidecar waits for; "" if that is not told.
func stillWaits(c config.HTTP) string {
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	s, err := askStatus(ctx, c)
	if err != nil || s.State != "draining" {
		return ""
	}
	return ": it waits for " + waitsFor(s.Status, time.Now())
}

func resume(c config.Config, stdout, stderr io.Writer) int {
	tellNotes(c.Notes, stderr)
	ctx, cancel := context.WithTimeout(context.Background(), answerTime)
	defer cancel()
	code, body, err := ask(ctx, c.HTTP, "/resume")
	switch {
	case err != nil:
		fmt.Fprintln(stderr, "prestop:", err)
		return exitFailed
	case code != http.StatusOK || body != "OK":
		return otherAnswer(c.HTTP, code, body, stdout, stderr)
	}
	fmt.Fprintln(stdout, body)
	return exitOK
}
