// Command build builds a program of the tests' tools unless that is done, and prints the path of its binary.
//
//	go run ./tools/build helm|kyverno|cosign
package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"

	"prestop/test/tools"
)

func main() {
	builds := map[string]func(context.Context) (string, error){"helm": tools.Helm, "kyverno": tools.Kyverno, "cosign": tools.Cosign}
	if len(os.Args) != 2 || builds[os.Args[1]] == nil {
		fmt.Fprintln(os.Stderr, "usage: build helm|kyverno|cosign")
		os.Exit(64)
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	path, err := builds[os.Args[1]](ctx)
	if err != nil {
		fmt.Fprintln(os.Stderr, "build:", err)
		os.Exit(1)
	}
	fmt.Println(path)
}
