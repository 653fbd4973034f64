package cli

import (
	"fmt"
	"io"
	"strings"

	"github.com/spf13/pflag"

	"prestop/internal/config"
)

const usage = `prestop stops a Pod without losing a request: it is a sidecar, and the target of the app's preStop hook.

  prestop [flags]            run the sidecar
  prestop shutdown [flags]   exec hook: start or join the drain of the running sidecar and wait for its end;
                             exit 0 drained, 2 expired, 3 resumed, 1 not reached
  prestop resume [flags]     cancel a drain and rejoin every registry
  prestop status [flags]     what the running sidecar does and waits for; --watch shows it again and again
  prestop check [flags]      is everything in place for a drain? each problem with its remedy; exit 1 if there is one
  prestop install FOLDER     copy this program into a folder, for an exec hook in an image without a shell
  prestop version            the version; also prestop --version

prestop COMMAND --help has the flags of a command, and an example.

Each flag is also an environment variable: PRESTOP_ and its name in capitals, e.g. PRESTOP_GRACE_PERIOD; the flag wins.
Times are 30s, 1m30s or a bare number of seconds. A flag that is repeatable has one value a line in its variable; a comma
separates two as well. The variables behind "also" are the app's own. They may hold placeholders, and one that cannot be
read is a warning. Those behind "only a hint" are told in the log and restrict nothing.
`

// commands are their helps, with an example each.
var commands = map[string]string{
	"shutdown": `prestop shutdown starts or joins the drain of the running sidecar, and waits for its end.

It is an exec hook for an image that has prestop (see prestop install). Where the kubelet reaches the Pod's port, use
httpGet with the path /shutdown instead. Exit 0 drained, 2 expired, 3 resumed, 1 if the sidecar is not reached. Besides
these flags and their variables it reads nothing of the environment.

Example, in the app's container:
  lifecycle: {preStop: {exec: {command: [/prestop/prestop, shutdown]}}}
`,
	"resume": `prestop resume cancels a drain of the running sidecar and rejoins every registry. It returns at once.

Example:
  kubectl exec POD -c prestop -- /prestop resume
`,
	"status": `prestop status shows what the running sidecar does and waits for.

Example:
  kubectl exec POD -c prestop -- /prestop status --watch
`,
	"check": `prestop check tells whether everything is in place for a drain, and each problem with its remedy.

It judges the settings of the running sidecar, and its own flags only where none runs. It changes nothing. Exit 1 if there
is a problem.

Example:
  kubectl exec POD -c prestop -- /prestop check
`,
	"install": `prestop install FOLDER copies this program into a folder.

An init container does this into a volume that the app's container mounts too: its exec hook, prestop shutdown, then needs
nothing of the app's image.

Example:
  prestop install /shared
`,
	"version": "prestop version tells the version, the commit, and the Go that it was built with; so does prestop --version.\n",
}

// help shows the help of the command that args begin with, or of all.
func help(args []string, stdout io.Writer) int {
	name := ""
	if len(args) > 0 {
		name = args[0]
	}
	text, known := commands[name]
	if !known {
		fmt.Fprint(stdout, usage)
		showGroups(stdout)
		fmt.Fprint(stdout, "\nExample:\n  prestop --eureka-url http://eureka:8761/eureka/ --grace-period 120\n")
		return exitOK
	}
	fmt.Fprint(stdout, text)
	switch name {
	case "install", "version":
	case "check":
		fmt.Fprint(stdout, "\nFlags:\n"+flagUsages(func(s config.Setting) bool { return s.Flag == "listen" || s.Flag == "output" }))
		fmt.Fprint(stdout, "\nand, where no sidecar runs, those of the sidecar.\n")
		showGroups(stdout)
	default:
		fmt.Fprint(stdout, "\nFlags:\n"+flagUsages(func(s config.Setting) bool { return s.ReadBy(name) }))
	}
	return exitOK
}

// showGroups shows the flags of the sidecar, in their groups.
func showGroups(stdout io.Writer) {
	for _, group := range config.Groups() {
		fmt.Fprintf(stdout, "\n%s:\n%s", group, flagUsages(func(s config.Setting) bool { return s.Group == group }))
	}
}

// flagUsages are the lines of the flags that keep wants.
func flagUsages(keep func(config.Setting) bool) string {
	f := config.Flags(keep)
	f.VisitAll(func(g *pflag.Flag) { g.Usage += also(config.Lookup(g.Name)) })
	return f.FlagUsages()
}

// also names the app's variables that a setting is read from too; "" if there are none.
func also(s config.Setting) string {
	switch {
	case len(s.Variables) == 0:
		return ""
	case s.HintOnly:
		return " [only a hint: " + strings.Join(s.Variables, ", ") + "]"
	}
	return " [also " + strings.Join(s.Variables, ", ") + "]"
}
