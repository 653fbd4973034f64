package cli

import (
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
)

// install copies this program into a folder, as an init container does whose volume the app's
// container mounts: an exec hook (`prestop shutdown`) then needs nothing of the app's image, not
// even a shell to copy with. The file appears complete or not at all, and can be executed by every
// user.
func install(args []string, stdout, stderr io.Writer) int {
	if len(args) == 1 && strings.HasPrefix(args[0], "-") {
		fmt.Fprintf(stderr, "prestop: install has no flag %s; see prestop install --help\n",
			args[0])
		return exitUsage
	}
	if len(args) != 1 {
		fmt.Fprintln(stderr,
			"prestop: install takes the folder to copy prestop into, a volume that the app's "+
				"container mounts too")
		return exitUsage
	}
	to := filepath.Join(args[0], "prestop")
	if err := copySelf(to); err != nil {
		fmt.Fprintf(stderr,
			"prestop: cannot install %s: %v; is a volume mounted there, and may this user write "+
				"to it?\n", to, err)
		return exitFailed
	}
	fmt.Fprintln(stdout, "installed", to)
	return exitOK
}

func copySelf(to string) error {
	self, err := os.Executable()
	if err != nil {
		return err
	}
	from, err := os.Open(self)
	if err != nil {
		return err
	}
	defer from.Close()
	// Beside it and then renamed: a container that is started again may find the file in use.
	fresh, err := os.CreateTemp(filepath.Dir(to), ".prestop-")
	if err != nil {
		return err
	}
	defer os.Remove(fresh.Name()) // gone if all went well
	if _, err := io.Copy(fresh, from); err != nil {
		fresh.Close()
		return err
	}
	if err := fresh.Chmod(0o755); err != nil {
		fresh.Close()
		return err
	}
	if err := fresh.Close(); err != nil {
		return err
	}
	return os.Rename(fresh.Name(), to)
}
