package main

import (
	"context"
	"time"
)

// scale is how much faster the demo's clocks run than those of a real system. Requests are not scaled.
const scale = 10

// The clocks of a real system with its defaults, and what the demo makes of them.
const (
	startUp = 10 * time.Second / scale // a Spring application until it serves

	eurekaHeartbeat = 30 * time.Second / scale // eureka.instance.lease-renewal-interval-in-seconds
	eurekaCache     = 30 * time.Second / scale // eureka.server.response-cache-update-interval-ms
	eurekaEvict     = 60 * time.Second / scale // eureka.server.eviction-interval-timer-in-ms
	eurekaFetch     = 30 * time.Second / scale // eureka.client.registry-fetch-interval-seconds
	nacosHeartbeat  = 5 * time.Second / scale
	nacosRebuild    = 500 * time.Millisecond / scale // from a change to the list that shows it
	nacosPush       = 1 * time.Second / scale        // what is pushed arrives sooner; the demo's callers ask this often instead
	nacosUnhealthy  = 15 * time.Second / scale
	nacosDelete     = 30 * time.Second / scale
	balancerCache   = 35 * time.Second / scale // spring.cloud.loadbalancer.cache.ttl

	sleepHook = 35 * time.Second / scale // `preStop: exec: sleep 35`

	reserve        = 5 * time.Second / scale  // prestop --reserve
	idleAfter      = 5 * time.Second / scale  // prestop --idle-after
	requestTimeout = 60 * time.Second / scale // prestop --request-timeout

	probePeriod = 10 * time.Second / scale // readinessProbe: periodSeconds
)

// wait returns after d, or with an error when ctx ends.
func wait(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}
