// Command prestop stops a Kubernetes Pod without losing a request: it is a sidecar, and the target of the
// app container's preStop hook.
package main

import (
	"os"

	"prestop/internal/cli"
	"prestop/internal/config"
)

// version and commit are set by the linker.
var version, commit = "dev", ""

func main() {
	build := cli.Build{Version: version, Commit: commit}
	os.Exit(cli.Run(os.Args[1:], config.Environ(os.Environ()), os.Stdout, os.Stderr, build))
}
