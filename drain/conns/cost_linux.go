package conns

import (
	"time"

	"golang.org/x/sys/unix"
)

// ProcessorTime is how long this process has kept processors busy: what a look costs, also on a busy machine or in a
// container that is throttled, where it takes longer.
func ProcessorTime() time.Duration {
	var t unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_PROCESS_CPUTIME_ID, &t); err != nil {
		return 0 // there is no such Linux; then looks cost nothing
	}
	return time.Duration(t.Nano())
}
