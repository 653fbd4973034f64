// Command mutate tells how much of the product's code its tests hold: it changes the code in one
// place, runs the tests of that package, and prints whether a test has failed (killed) or none has
// (survived).
//
//	mutate [-n 40] [-seed 1] [-parallel 1] [-timeout 0] [-least 0] [-short] PACKAGE…      e.g. ./drain ./registry/...
//
// Each is tried with -short first, and only one that survives that with all tests.
//
// The mutants are a random sample: conditions negated, && and || exchanged, statements dropped,
// constants halved and doubled, an error that is returned as nil. The sources stay as they are; go
// build's overlay replaces a file, also for the binary that a test builds. A mutant that does not
// compile is not counted, and another is drawn for it. Tests that do not end within the time bound
// have killed it.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"
)

func main() {
	r := runner{out: os.Stdout}
	flag.StringVar(&r.dir, "C", ".", "the folder in which the packages are named")
	flag.IntVar(&r.sample, "n", 40, "mutants of each package")
	flag.Uint64Var(&r.seed, "seed", 1, "of the sample")
	flag.IntVar(&r.parallel, "parallel", 1, "mutants tested at a time")
	flag.DurationVar(&r.timeout, "timeout", 0, "for the tests of a mutant; 0: a minute, and four times what the package's tests take without one")
	flag.BoolVar(&r.quick, "short", false, "run the short tests alone, so that the rate is one at least")
	flag.Float64Var(&r.least, "least", 0, "fail where fewer per cent are killed in a package")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := r.run(ctx, flag.Args()); err != nil {
		fmt.Fprintln(os.Stderr, "mutate:", err)
		stop()
		os.Exit(1)
	}
}

// runner tests the mutants of packages.
type runner struct {
	dir      string
	sample   int
	seed     uint64
	parallel int
	timeout  time.Duration
	least    float64
	quick    bool
	out      io.Writer
}

// pkg is what go list tells of a package.
type pkg struct {
	Dir, ImportPath                    string
	GoFiles, TestGoFiles, XTestGoFiles []string
}

func (r *runner) run(ctx context.Context, patterns []string) error {
	if len(patterns) == 0 {
		return errors.New("no packages are named")
	}
	packages, err := r.list(ctx, patterns)
	if err != nil {
		return err
	}
	var low []string
	for _, p := range packages {
		if len(p.TestGoFiles)+len(p.XTestGoFiles) == 0 {
			fmt.Fprintf(r.out, "%s: no tests of its own\n", p.ImportPath)
			continue
		}
		killed, all, err := r.test(ctx, p)
		if err != nil {
			return fmt.Errorf("%s: %w", p.ImportPath, err)
		}
		if all == 0 {
			fmt.Fprintf(r.out, "%s: no mutants\n", p.ImportPath)
			continue
		}
		rate := 100 * float64(killed) / float64(all)
		fmt.Fprintf(r.out, "%s: %d of %d killed, %.0f %%\n", p.ImportPath, killed, all, rate)
		if rate < r.least {
			low = append(low, fmt.Sprintf("%s %.0f %%", p.ImportPath, rate))
		}
	}
	if len(low) > 0 {
		return fmt.Errorf("below %g %%: %s", r.least, strings.Join(low, ", "))
	}
	return nil
}

func (r *runner) list(ctx context.Context, patterns []string) ([]pkg, error) {
	cmd := exec.CommandContext(ctx, "go", append([]string{"list", "-json=Dir,ImportPath,GoFiles,TestGoFiles,XTestGoFiles"}, patterns...)...)
	cmd.Dir, cmd.Stderr = r.dir, os.Stderr
	out, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("go list: %w", err)
	}
	var all []pkg
	for d := json.NewDecoder(strings.NewReader(string(out))); ; {
		var p pkg
		if err := d.Decode(&p); errors.Is(err, io.EOF) {
			return all, nil
		} else if err != nil {
			return nil, err
		}
		all = append(all, p)
	}
}

// test runs the sample of a package.
func (r *runner) test(ctx context.Context, p pkg) (killed, all int, err error) {
	sources, mutants := map[string][]byte{}, []mutant(nil)
	for _, name := range p.GoFiles {
		file := filepath.Join(p.Dir, name)
		source, err := os.ReadFile(file)
		if err != nil {
			return 0, 0, err
		}
		more, err := mutantsOf(file, source)
		if err != nil {
			return 0, 0, err
		}
		sources[file] = source
		mutants = append(mutants, more...)
	}
	random := rand.New(rand.NewPCG(r.seed, 0))
	random.Shuffle(len(mutants), func(i, j int) { mutants[i], mutants[j] = mutants[j], mutants[i] })

	began := time.Now()
	timeout := r.timeout
	result, output, err := r.tests(ctx, p, nil, nil, max(timeout, 20*time.Minute))
	if err != nil {
		return 0, 0, err
	}
	if result != survived {
		return 0, 0, fmt.Errorf("the tests fail without a mutant:\n%s", output)
	}
	if timeout == 0 {
		timeout = time.Minute + 4*time.Since(began)
	}
	fmt.Fprintf(r.out, "%s: %d mutants, %d of them tested, %s at most for each\n", p.ImportPath, len(mutants), min(r.sample, len(mutants)), timeout.Round(time.Second))

	// The sample is filled up in the order of the draw, so that it is the same whatever runs first.
	outcomes := make([]outcome, len(mutants))
	for next := 0; all < r.sample && next < len(mutants); {
		batch := mutants[next:min(next+r.sample-all, len(mutants))]
		if err := r.each(ctx, p, batch, sources, timeout, outcomes[next:]); err != nil {
			return 0, 0, err
		}
		for _, o := range outcomes[next : next+len(batch)] {
			switch o {
			case caught, timedOut:
				killed++
				all++
			case survived:
				all++
			}
		}
		next += len(batch)
	}
	return killed, all, nil
}

// each tests the mutants of a batch, several at a time, and notes and prints what came of each.
func (r *runner) each(ctx context.Context, p pkg, batch []mutant, sources map[string][]byte, timeout time.Duration, outcomes []outcome) error {
	var all sync.WaitGroup
	var mu sync.Mutex // the output and the error
	var failed error
	free := make(chan struct{}, max(r.parallel, 1))
	for i, m := range batch {
		free <- struct{}{}
		all.Go(func() {
			defer func() { <-free }()
			o, _, err := r.tests(ctx, p, &m, sources[m.file], timeout)
			mu.Lock()
			defer mu.Unlock()
			if err != nil {
				failed = errors.Join(failed, err)
				return
			}
			if outcomes[i] = o; o != broken {
				fmt.Fprintf(r.out, "%-9s %s:%d  %s: %s\n", o, r.short(m.file), m.line, m.kind, m.diff(sources[m.file]))
			}
		})
	}
	all.Wait()
	return failed
}

// short is the file as seen from where the packages are named.
func (r *runner) short(file string) string {
	dir, err := filepath.Abs(r.dir)
	if err != nil {
		return file
	}
	if rel, err := filepath.Rel(dir, file); err == nil {
		return rel
	}
	return file
}

type outcome int

const (
	broken   outcome = iota // it does not compile
	survived                // no test failed
	caught                  // a test failed
	timedOut                // the tests did not end
)

func (o outcome) String() string {
	return [...]string{"broken", "SURVIVED", "killed", "timed out"}[o]
}

// tests runs a package's tests, with a mutant of one file or, if m is nil, without.
func (r *runner) tests(ctx context.Context, p pkg, m *mutant, source []byte, timeout time.Duration) (outcome, string, error) {
	dir, err := os.MkdirTemp("", "mutate")
	if err != nil {
		return 0, "", err
	}
	defer os.RemoveAll(dir)
	flags := os.Getenv("GOFLAGS")
	if m != nil {
		changed := filepath.Join(dir, filepath.Base(m.file))
		overlay, err := json.Marshal(map[string]map[string]string{"Replace": {m.file: changed}})
		if err != nil {
			return 0, "", err
		}
		overlayFile := filepath.Join(dir, "overlay.json")
		if err := errors.Join(os.WriteFile(changed, m.apply(source), 0o600), os.WriteFile(overlayFile, overlay, 0o600)); err != nil {
			return 0, "", err
		}
		// By the environment, for the commands that a test starts too.
		flags = strings.TrimSpace(flags + " -overlay=" + overlayFile)
	}
	bounded, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	if m != nil { // go test's own bound does not count the build
		if out, err := r.command(bounded, flags, "test", "-count=1", "-vet=off", "-run=^$", p.ImportPath); err != nil {
			return broken, out, ctx.Err()
		}
	}
	run := []string{"test", "-count=1", "-vet=off", "-failfast", "-timeout=0", p.ImportPath}
	out, err := "", error(nil)
	if m != nil || r.quick { // most are killed by the short tests
		out, err = r.command(bounded, flags, append(run, "-short")...)
	}
	if err == nil && !r.quick {
		out, err = r.command(bounded, flags, run...)
	}
	switch {
	case ctx.Err() != nil:
		return 0, "", ctx.Err()
	case bounded.Err() != nil:
		return timedOut, out, nil
	case err != nil:
		return caught, out, nil
	}
	return survived, out, nil
}

// command runs go; with ctx's end its whole process group ends, since tests start processes of
// their own.
func (r *runner) command(ctx context.Context, flags string, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, "go", args...)
	cmd.Dir = r.dir
	cmd.Env = append(os.Environ(), "GOFLAGS="+flags)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	cmd.WaitDelay = 5 * time.Second
	out, err := cmd.CombinedOutput()
	return string(out), err
}
