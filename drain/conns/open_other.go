//go:build !linux

package conns

import "log/slog"

func openNetlink(Rule, *slog.Logger) (Counter, error) { return nil, errNotLinux }

func openProc(Rule, *slog.Logger) (Counter, error) { return nil, errNotLinux }
