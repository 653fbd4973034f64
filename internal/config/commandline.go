package config

import (
	"errors"
	"slices"
	"strings"

	"github.com/spf13/pflag"
)

// parse reads the command line. Where that is wrong, the error joins everything that is wrong with
// it, and the flags hold what could be read, so that the rest can be judged too. It is
// pflag.ErrHelp for --help.
func parse(args []string) (*pflag.FlagSet, error) {
	f := Flags(All)
	err := f.Parse(args)
	switch {
	case err == nil && f.NArg() > 0:
		return f, misplaced(f.Arg(0))
	case err == nil || errors.Is(err, pflag.ErrHelp):
		return f, err
	}
	lenient := Flags(All)
	lenient.ParseErrorsAllowlist.UnknownFlags = true
	if lenient.Parse(args) != nil {
		return Flags(All), wrongFlag(err, args, f)
	}
	problems := []error{wrongFlag(err, args, f)}
	for _, arg := range args {
		name, long := strings.CutPrefix(arg, "--")
		name, _, _ = strings.Cut(name, "=")
		if !long || name == "" || f.Lookup(name) != nil {
			continue
		}
		p := wrongFlag(errors.New("unknown flag: --"+name), args, f)
		if !slices.Contains(problems, error(p)) {
			problems = append(problems, p)
		}
	}
	return lenient, errors.Join(problems...)
}

// Commands are those of prestop besides the sidecar, which has no name.
var Commands = []string{"shutdown", "resume", "status", "check", "install", "version", "help"}

// commandLine is the setting of a Problem that is about no flag.
const commandLine = "command line"

// wrongFlag says what is wrong with a command line, and which flag was probably meant. What follows
// a flag's name may be a secret: -token=… with one dash is a group of letters to pflag.
func wrongFlag(err error, args []string, f *pflag.FlagSet) Problem {
	wrong, _, _ := strings.Cut(err.Error(), " in -")
	wrong, _, _ = strings.Cut(wrong, "=")
	p := Problem{Setting: commandLine, Wrong: wrong, Remedy: "see prestop --help"}
	var known []string
	f.VisitAll(func(f *pflag.Flag) { known = append(known, f.Name) })
	if _, name, found := strings.Cut(wrong, "unknown flag: --"); found {
		if near := Nearest(name, known); near != "" {
			p.Remedy = "is --" + near + " meant? " + p.Remedy
		}
	}
	if strings.Contains(wrong, "shorthand") {
		p.Remedy = "flags begin with two dashes; " + p.Remedy
		for _, arg := range args {
			name, _, _ := strings.Cut(arg, "=")
			if slices.Contains(known, strings.TrimPrefix(name, "-")) &&
				!strings.HasPrefix(name, "--") {
				p.Remedy = "flags begin with two dashes: -" + name
			}
		}
	}
	return p
}

// misplaced says what is wrong with a word behind the flags.
func misplaced(word string) Problem {
	p := Problem{
		Setting: commandLine, Value: word, Wrong: "is not expected here",
		Remedy: "a command comes before the flags; see prestop --help",
	}
	if near := Nearest(word, Commands); near != "" && near != word {
		p.Remedy = "is the command " + near + " meant? " + p.Remedy
	}
	return p
}

// notHere says where a flag belongs that a command does not have.
func notHere(command, flag string) string {
	if s := Lookup(flag); s.CommandsOnly {
		return "is no flag here; it belongs to prestop " + strings.Join(s.Of, " and prestop ")
	}
	return "is no flag of prestop " + command + "; it belongs to the sidecar"
}

// AboutCommandLine reports whether a part of err, of Load, is about the command line, and not about
// the environment.
func AboutCommandLine(err error) bool {
	if all, joined := err.(interface{ Unwrap() []error }); joined {
		return slices.ContainsFunc(all.Unwrap(), AboutCommandLine)
	}
	p := Problem{}
	return !errors.As(err, &p) || strings.HasPrefix(p.Setting, "--") || p.Setting == commandLine
}
