package servers

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// JavaWeb is a JVM with Tomcat and Netty, for the corpus of connections.
type JavaWeb struct {
	*Process
	// Begun is a URL that, with an id appended, answers 200 once a request with that id has arrived.
	Begun string
}

// BuildJavaWeb builds the Java servers and the Java client of the corpus, once, and returns their class path.
func BuildJavaWeb(ctx context.Context) (string, error) {
	built, err := Build(ctx, "../servers/corpus/app", "compile", "dependency:build-classpath", "-Dmdep.outputFile=target/classpath")
	if err != nil {
		return "", err
	}
	jars, err := os.ReadFile(filepath.Join(built, "target", "classpath"))
	if err != nil {
		return "", err
	}
	return filepath.Join(built, "target", "classes") + string(os.PathListSeparator) + strings.TrimSpace(string(jars)), nil
}

// RunJavaWeb starts it with a listener for each of listeners, "tomcat-http1:PORT", "netty-http2-tls:PORT" and so
// on, and the certificate in two PEM files. It ends with the test.
func RunJavaWeb(t testing.TB, cert, key string, listeners []string) *JavaWeb {
	t.Helper()
	classes, err := BuildJavaWeb(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	port, err := FreePort()
	if err != nil {
		t.Fatal(err)
	}
	at := fmt.Sprintf("http://127.0.0.1:%d/", port)
	args := []string{"-Xmx128m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-Xss512k", "-cp", classes, "it.App", cert, key, fmt.Sprint(port)}
	p := Run(t, Spec{Name: "java-web", Ready: at, Args: append(args, listeners...)})
	return &JavaWeb{p, at + "begun?id="}
}
