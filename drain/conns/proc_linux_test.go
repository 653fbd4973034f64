package conns

import (
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"prestop/drain/conns/sockdiag"
)

// procDir holds the files of /proc/net that are not empty.
func procDir(t *testing.T, tcp, tcp6 string) string {
	t.Helper()
	dir := t.TempDir()
	for name, text := range map[string]string{"tcp": tcp, "tcp6": tcp6} {
		if text == "" {
			continue
		}
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

const procHeading = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n"

func TestProcReadsTablesOfAnySizeInTheSameBuffer(t *testing.T) {
	const lines = 3 * procBuffer / len(procIPv4)
	dir := procDir(t, procHeading+strings.Repeat(procIPv4+"\n", lines), procHeading+strings.Repeat(procIPv6+"\n", lines))
	c, err := openProcIn(dir, Rule{})
	if err != nil {
		t.Fatal(err)
	}
	if got := count(t, c, 8080, 443); got.Active != 2*lines {
		t.Errorf("%d lines are counted as %+v", 2*lines, got)
	}
}

func TestProcWithoutIPv6(t *testing.T) {
	c, err := openProcIn(procDir(t, procHeading+procIPv4+"\n", ""), Rule{})
	if err != nil {
		t.Fatal(err)
	}
	if got := count(t, c, 8080); got.Active != 1 {
		t.Errorf("counted %+v", got)
	}
}

func TestProcRefusesWhatItDoesNotUnderstand(t *testing.T) {
	for name, tcp := range map[string]string{
		"a line of another form":             procHeading + "0: nonsense\n",
		"a file that ends within a line":     procHeading + procIPv4,
		"a line that is longer than any is":  procHeading + strings.Repeat("0", procBuffer+1) + "\n",
		"a heading that is longer than that": strings.Repeat("s", procBuffer+1),
	} {
		t.Run(name, func(t *testing.T) {
			if _, err := openProcIn(procDir(t, tcp, ""), Rule{}); !errors.Is(err, sockdiag.ErrMalformed) {
				t.Errorf("opened with %v, want %v", err, sockdiag.ErrMalformed)
			}
		})
	}
	if _, err := openProcIn(procDir(t, "", procHeading), Rule{}); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("opened with %v without a file for IPv4", err)
	}
}

func ExampleOpen() {
	c, err := Open(Auto, Rule{ExcludePorts: []uint16{8090}}, slog.Default())
	if err != nil {
		fmt.Println(err)
		return
	}
	defer c.Close()
	fmt.Println(c.Source())
	// Output: netlink
}
