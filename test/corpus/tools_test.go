package corpus

import (
	"context"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"prestop/test/servers"
)

// toolShapes are made by other clients than Go's: curl, and the h2load and nghttp of nghttp2.
var toolShapes = []shape{
	{name: "curl, a GET answered", want: idle, common: true, on: every, drive: func(v *visit) { v.curl(1, "/fast") }},
	{name: "curl, 5 GETs answered", want: idle, common: true, on: reused, drive: func(v *visit) { v.curl(5, "/fast") }},
	{name: "curl, 4 small POSTs answered", want: idle, common: true, on: reused, drive: func(v *visit) { v.curl(4, "/fast", "-d", "small") }},
	{name: "curl, a large answer read", want: idle, on: every, drive: func(v *visit) { v.curl(1, "/large") }},
	{name: "curl, a GET in flight", want: used, on: every, drive: func(v *visit) { v.curlSlow(0) }},
	{name: "curl, 3 GETs answered, one in flight", want: used, on: over(web1, web1TLS), drive: func(v *visit) { v.curlSlow(3) }},
	// curl 7.88 resets a stream once the body has its length, and sends the next request before the server has ended that stream.
	{name: "curl, 3 GETs answered, one in flight", want: used, mixed: true, on: over(web2TLS), drive: func(v *visit) { v.curlSlow(3) }},
	{name: "JDK, a GET answered", want: idle, common: true, on: noUpgrade, drive: func(v *visit) { v.java("", "/fast") }},
	{name: "JDK, 6 GETs answered", want: idle, common: true, on: noUpgrade, drive: func(v *visit) { v.java("", slices.Repeat([]string{"/fast"}, 6)...) }},
	{name: "JDK, 20 GETs answered", want: idle, common: true, on: noUpgrade, drive: func(v *visit) { v.java("", slices.Repeat([]string{"/fast"}, 20)...) }},
	{name: "JDK, a small POST answered", want: idle, common: true, on: noUpgrade, drive: func(v *visit) { v.java("small", "/fast") }},
	{name: "JDK, a GET in flight", want: used, on: noUpgrade, drive: func(v *visit) { v.javaSlow(0, "") }},
	{name: "JDK, a POST of 3 kB in flight", want: used, on: noUpgrade, drive: func(v *visit) { v.javaSlow(0, strings.Repeat("x", 3000)) }},
	{name: "JDK, a GET answered, one in flight", want: used, on: noUpgrade, drive: func(v *visit) { v.javaSlow(1, "") }},
	{name: "h2load, 6 GETs answered, thinking", want: idle, common: true, on: shared, drive: func(v *visit) { v.h2load(6, 100) }},
	{name: "nghttp, a GET in flight", want: used, on: shared, drive: func(v *visit) {
		id := v.id()
		v.start("nghttp", "-n", v.url("/slow?id="+id))
		v.await(id)
	}},
}

// upgradeShapes are those of the JDK's client to a server that speaks HTTP/2 in clear: it asks for that by
// Upgrade, as a request of HTTP/1.1, which nginx does not take.
var upgradeShapes = []shape{
	{name: "JDK, by Upgrade, a GET answered", want: idle, on: over(web2), drive: func(v *visit) { v.java("", "/fast") }},
	{name: "JDK, by Upgrade, a GET in flight", want: used, on: over(web2), drive: func(v *visit) { v.javaSlow(0, "") }},
	{name: "JDK, by Upgrade, a GET answered, one in flight", want: used, on: over(web2), drive: func(v *visit) { v.javaSlow(1, "") }},
}

// noUpgrade are the protocols that begin with themselves by every client.
var noUpgrade = over(web1, web1TLS, web2TLS)

// reused are the protocols whose connection curl 7.88 uses for another request.
func reused(p protocol) bool { return p != web2 }

// start runs a client until the test ends; its standard input stays open.
func (v *visit) start(name string, args ...string) {
	v.Helper()
	ctx, cancel := context.WithCancel(v.ctx)
	cmd := exec.CommandContext(ctx, "nsenter", append([]string{"--net=" + v.outside.Namespace, name}, args...)...)
	in, err := cmd.StdinPipe()
	if err != nil {
		v.Fatal(err)
	}
	cmd.Stdout = io.Discard
	ended, err := servers.StartBound(cmd)
	if err != nil {
		v.Fatalf("%v (Debian: apt-get install curl nghttp2-client)", err)
	}
	v.Cleanup(func() {
		cancel()
		in.Close()
		<-ended.Done()
	})
}

// curlFor returns curl's flags for the protocol.
func (v *visit) curlFlags() []string {
	flags := []string{"-s", "-k", "--max-time", "60", "--no-progress-meter"}
	switch v.protocol {
	case web1, web1TLS:
		return append(flags, "--http1.1")
	case web2:
		return append(flags, "--http2-prior-knowledge")
	}
	return append(flags, "--http2")
}

// finished starts a client that connects to a place once it has finished, and waits for that.
func (v *visit) finished(start func(place string)) {
	v.Helper()
	l, err := net.Listen("tcp4", ":0")
	if err != nil {
		v.Fatal(err)
	}
	v.Cleanup(func() { l.Close() })
	start(fmt.Sprintf("%s:%d", v.outside.Address, l.Addr().(*net.TCPAddr).Port))
	if err := l.(*net.TCPListener).SetDeadline(time.Now().Add(90 * time.Second)); err != nil {
		v.Fatal(err)
	}
	c, err := l.Accept()
	if err != nil {
		v.Fatalf("the client has not finished: %v", err)
	}
	v.Cleanup(func() { c.Close() })
}

// curl has curl make n requests, and then wait for another server, with the connection kept.
func (v *visit) curl(n int, path string, more ...string) {
	v.Helper()
	args := append(v.curlFlags(), more...)
	for range n {
		args = append(args, v.url(path))
	}
	v.finished(func(place string) { v.start("curl", append(args, "telnet://"+place)...) })
}

// java has the JDK's client make requests of these paths, and keep its connection.
func (v *visit) java(body string, paths ...string) {
	v.Helper()
	v.finished(func(place string) { v.startJava(body, place, paths...) })
}

// javaSlow has it make n requests and another that is not answered.
func (v *visit) javaSlow(n int, body string) {
	v.Helper()
	id := v.id()
	v.startJava(body, "-:0", append(slices.Repeat([]string{"/fast"}, n), "/slow?id="+id)...)
	v.await(id)
}

func (v *visit) startJava(body, place string, paths ...string) {
	v.Helper()
	classes, err := servers.BuildJavaWeb(v.ctx)
	if err != nil {
		v.Fatal(err)
	}
	java, err := servers.Java()
	if err != nil {
		v.Fatal(err)
	}
	version := "1"
	if v.multiplexed() {
		version = "2"
	}
	args := []string{"-Xmx32m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-Djdk.internal.httpclient.disableHostnameVerification=true",
		"-cp", classes, "it.Client", version, body, place}
	for _, path := range paths {
		args = append(args, v.url(path))
	}
	v.start(java, args...)
}

// curlSlow has curl make n requests and another that is not answered.
func (v *visit) curlSlow(n int) {
	v.Helper()
	id := v.id()
	args := v.curlFlags()
	for range n {
		args = append(args, v.url("/fast"))
	}
	v.start("curl", append(args, v.url("/slow?id="+id))...)
	v.await(id)
}

// h2load has it make n requests, one every so many milliseconds, and then none for a minute.
func (v *visit) h2load(n, every int) {
	v.Helper()
	dir, err := os.MkdirTemp("", "h2load-")
	if err != nil {
		v.Fatal(err)
	}
	v.Cleanup(func() { os.RemoveAll(dir) })
	var script strings.Builder
	for i := range n {
		fmt.Fprintf(&script, "%d\t/fast\n", i*every)
	}
	fmt.Fprintf(&script, "60000\t/fast\n")
	at := filepath.Join(dir, "script")
	if err := os.WriteFile(at, []byte(script.String()), 0o644); err != nil {
		v.Fatal(err)
	}
	v.start("h2load", "-n", fmt.Sprint(n+1), "-c", "1", "-t", "1", "-m", "1", "--timing-script-file", at, "-B", v.scheme()+"://"+v.address())
	v.pause(time.Duration(n*every+300) * ms)
}
