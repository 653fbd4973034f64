// Package cli is what people type and read: the sidecar from its start to its end, the commands
// that talk to it, and their help.
package cli

import (
	"errors"
	"fmt"
	"io"
	"runtime"
	"slices"
	"strings"

	"github.com/spf13/pflag"

	"prestop/internal/config"
)

// Build is what the linker tells of the program.
type Build struct{ Version, Commit string }

// Exit codes. 2 and 3 are only of prestop shutdown.
const (
	exitOK        = 0
	exitFailed    = 1
	exitExpired   = 2
	exitCancelled = 3
	exitUsage     = 64
)

// Run does what args, those behind the program's name, say, and returns the exit code. The sidecar
// returns when it was told to stop and nothing is left to do.
func Run(args []string, env config.Environment, stdout, stderr io.Writer, build Build) int {
	name, args, err := parseCommand(args)
	if err != nil {
		fmt.Fprintln(stderr, "prestop:", err)
		return exitUsage
	}
	switch name {
	case "help":
		return help(args, stdout)
	case "version":
		return build.show(stdout)
	case "install": // it has no configuration
		return install(args, stdout, stderr)
	}
	c, err := config.Load(name, args, env)
	switch {
	case errors.Is(err, pflag.ErrHelp):
		return help([]string{name}, stdout)
	case err != nil && name == "check" && !config.AboutCommandLine(err):
		c.Wrong = err // a running sidecar may have other settings
	case err != nil:
		fmt.Fprintf(stderr, "prestop: the configuration cannot be used:\n%s\n", indent(err.Error()))
		return exitUsage
	}
	switch name {
	case "shutdown":
		return shutdown(c, stdout, stderr)
	case "resume":
		return resume(c, stdout, stderr)
	case "status":
		return status(c, stdout, stderr)
	case "check":
		return check(c, build, stdout, stderr)
	}
	return sidecar(c, build, stdout, stderr)
}

// show shows the version.
func (b Build) show(stdout io.Writer) int {
	from := ""
	if b.Commit != "" {
		from = "commit " + b.Commit + ", "
	}
	fmt.Fprintf(stdout, "prestop %s (%s%s %s/%s)\n", b.Version, from, runtime.Version(),
		runtime.GOOS, runtime.GOARCH)
	return exitOK
}

// agent is what registries are told who calls.
func (b Build) agent() string { return "prestop/" + b.Version }

// parseCommand separates the command's name from its arguments; "" is the sidecar. --help and
// --version before another command are commands too.
func parseCommand(args []string) (string, []string, error) {
	if len(args) == 0 {
		return "", nil, nil
	}
	switch first := args[0]; {
	case slices.Contains([]string{"--version", "-version", "-v", "-V"}, first):
		return "version", nil, nil
	case asksHelp(first):
		return "help", args[1:], nil
	case strings.HasPrefix(first, "-"):
		return "", args, nil
	case !slices.Contains(config.Commands, first):
		text := fmt.Sprintf("unknown command %q; see prestop --help", first)
		if near := nearestCommand(first); near != "" {
			text = fmt.Sprintf("unknown command %q; is %s meant? see prestop --help", first, near)
		}
		return "", nil, errors.New(text)
	case len(args) > 1 && asksHelp(args[1]):
		return "help", args[:1], nil
	default:
		return first, args[1:], nil
	}
}

func asksHelp(arg string) bool { return slices.Contains([]string{"--help", "-help", "-h"}, arg) }

// nearestCommand is the command that was probably meant; "" where none is near.
func nearestCommand(word string) string {
	switch strings.ToLower(word) {
	case "stop", "drain", "terminate", "pre-stop":
		return "shutdown"
	case "start", "undrain", "rejoin":
		return "resume"
	}
	return config.Nearest(word, config.Commands)
}

func indent(s string) string { return "  " + strings.ReplaceAll(s, "\n", "\n  ") }
