package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"os"
	"os/signal"
	"strconv"
	"syscall"
	"time"
)

// registered is what an instance prints when it is in the registry.
const registered = "registered"

// runApp is one instance of a service, a process of its own. It takes startUp to come up, registers, prints that,
// and heartbeats. On SIGTERM it does what a careless application does: it deregisters and exits, and whatever is in flight dies.
func runApp(args []string) error {
	flags := flag.NewFlagSet("app", flag.ContinueOnError)
	product := flags.String("registry", "", "eureka or nacos")
	url := flags.String("url", "", "the registry's URL")
	service := flags.String("service", "", "the service's name")
	address := flags.String("address", "", "host:port to listen on and to register")
	if err := flags.Parse(args); err != nil {
		return err
	}
	self, err := netip.ParseAddrPort(*address)
	if err != nil {
		return fmt.Errorf("--address: %w", err)
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()

	if err := wait(ctx, startUp); err != nil {
		return nil
	}
	listener, err := net.Listen("tcp", *address)
	if err != nil {
		return err
	}
	failed := make(chan error, 1)
	go func() { failed <- http.Serve(listener, http.HandlerFunc(work)) }()

	registration := newRegistration(*product, *url, *service, self)
	for err := registration.register(ctx); err != nil; err = registration.register(ctx) {
		fmt.Fprintln(os.Stderr, err)
		if wait(ctx, registration.every()) != nil {
			return nil
		}
	}
	fmt.Println(registered)
	beat := time.NewTicker(registration.every())
	defer beat.Stop()
	for {
		select {
		case <-ctx.Done():
			last, cancel := context.WithTimeout(context.Background(), time.Second)
			defer cancel()
			return registration.deregister(last)
		case err := <-failed:
			return err
		case <-beat.C:
			err := registration.beat(ctx)
			if errors.Is(err, errUnknownInstance) { // what every client does: the registry does not know it, so again
				err = registration.register(ctx)
			}
			if err != nil && ctx.Err() == nil {
				fmt.Fprintln(os.Stderr, err)
			}
		}
	}
}

// work answers after as many milliseconds as the request asks for.
func work(w http.ResponseWriter, r *http.Request) {
	ms, err := strconv.Atoi(r.URL.Query().Get("ms"))
	if err != nil || ms < 0 || ms > 10_000 {
		http.Error(w, "ms: milliseconds, 0 to 10000", http.StatusBadRequest)
		return
	}
	if wait(r.Context(), time.Duration(ms)*time.Millisecond) == nil {
		fmt.Fprintln(w, "OK")
	}
}
