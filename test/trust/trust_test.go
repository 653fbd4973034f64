// Package trust makes a release in a clone of the repository, publishes it in a registry in memory, signs it by the Makefile's
// targets, and shows what their verification takes and what it refuses.
package trust

import (
	"io"
	"log"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/registry"
	"github.com/google/go-containerregistry/pkg/v1/random"
	"github.com/google/go-containerregistry/pkg/v1/remote"

	"prestop/test/kube"
	"prestop/test/tools"
)

// release is one that is published and signed.
type release struct {
	cosign string // its binary
	dir    string // of the repository's clone
	host   string // of the registry
	keys   string // the folder with cosign.key and cosign.pub
	env    []string
}

const version = "v1.2.3"

func publish(t *testing.T) *release {
	t.Helper()
	root, err := kube.Root()
	if err != nil {
		t.Fatal(err)
	}
	cosign, err := tools.Cosign(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	server := httptest.NewServer(registry.New(registry.Logger(log.New(io.Discard, "", 0))))
	t.Cleanup(server.Close)
	r := &release{cosign: cosign, dir: filepath.Join(t.TempDir(), "prestop"), keys: t.TempDir(), host: strings.TrimPrefix(server.URL, "http://")}
	r.env = append(os.Environ(), "COSIGN="+cosign, "COSIGN_PASSWORD=", "COSIGN_FLAGS=--allow-http-registry", "DOCKER_CONFIG="+t.TempDir())
	r.must(t, ".", "git", "clone", "-q", root, r.dir)
	r.must(t, r.keys, cosign, "generate-key-pair")
	r.pushImage(t)
	r.must(t, r.dir, "make", r.args("release")...)
	r.must(t, r.dir, "make", r.args("push-charts", "PLAIN=--plain-http")...)
	r.must(t, r.dir, "make", r.args("sign", "KEY="+filepath.Join(r.keys, "cosign.key"))...)
	return r
}

func (r *release) image() string { return r.host + "/ops/prestop" }

func (r *release) args(target string, more ...string) []string {
	return append([]string{target, "VERSION=" + version, "COMMIT=abc", "IMAGE=" + r.image(), "CHARTS=oci://" + r.host + "/charts"}, more...)
}

func (r *release) run(t *testing.T, dir, program string, args ...string) (string, error) {
	c := exec.CommandContext(t.Context(), program, args...)
	c.Dir, c.Env = dir, r.env
	out, err := c.CombinedOutput()
	return string(out), err
}

func (r *release) must(t *testing.T, dir, program string, args ...string) {
	t.Helper()
	if out, err := r.run(t, dir, program, args...); err != nil {
		t.Fatalf("%s %s: %v\n%s", program, strings.Join(args, " "), err, out)
	}
}

// pushImage puts another image under the release's name.
func (r *release) pushImage(t *testing.T) {
	t.Helper()
	ref, err := name.NewTag(r.image() + ":" + version)
	if err != nil {
		t.Fatal(err)
	}
	image, err := random.Image(64, 1)
	if err == nil {
		err = remote.Write(ref, image)
	}
	if err != nil {
		t.Fatal(err)
	}
}

func (r *release) verify(t *testing.T, keys string) (string, error) {
	return r.run(t, r.dir, "make", r.args("verify", "KEY="+filepath.Join(keys, "cosign.pub"))...)
}

func TestWhatIsSignedIsVerifiedAndNothingElse(t *testing.T) {
	r := publish(t)
	if out, err := r.verify(t, r.keys); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}

	other := t.TempDir()
	r.must(t, other, r.cosign, "generate-key-pair")
	if out, err := r.verify(t, other); err == nil {
		t.Errorf("by another key it is verified:\n%s", out)
	}

	archive := filepath.Join(r.dir, "dist", "prestop-"+version+"-linux-amd64.tar.gz")
	whole, err := os.ReadFile(archive)
	if err != nil {
		t.Fatal(err)
	}
	write(t, archive, append([]byte{0}, whole...))
	if out, err := r.verify(t, r.keys); err == nil {
		t.Errorf("with a changed archive it is verified:\n%s", out)
	}
	write(t, archive, whole)

	sums := filepath.Join(r.dir, "dist", "SHA256SUMS")
	signed, err := os.ReadFile(sums)
	if err != nil {
		t.Fatal(err)
	}
	write(t, sums, append(signed, "\n"...))
	if out, err := r.verify(t, r.keys); err == nil {
		t.Errorf("with changed checksums it is verified:\n%s", out)
	}
	write(t, sums, signed)
	if out, err := r.verify(t, r.keys); err != nil {
		t.Fatalf("as it was it is not verified any more: %v\n%s", err, out)
	}

	r.pushImage(t)
	if out, err := r.verify(t, r.keys); err == nil {
		t.Errorf("with another image under its name it is verified:\n%s", out)
	}
}

func write(t *testing.T, file string, text []byte) {
	t.Helper()
	if err := os.WriteFile(file, text, 0o644); err != nil {
		t.Fatal(err)
	}
}
