//go:build !linux

package conns

import (
	"log/slog"
	"time"
)

// ProcessorTime is not known here; nothing is looked at either.
func ProcessorTime() time.Duration { return 0 }

func openNetlink(Rule, *slog.Logger) (Counter, error) { return nil, errNotLinux }

func openProc(Rule, *slog.Logger) (Counter, error) { return nil, errNotLinux }

// UDPPorts is not known here.
func UDPPorts() ([]uint16, error) { return nil, errNotLinux }
