package corpus

import (
	"bufio"
	"fmt"
	"net"
	"strings"
	"sync"
	"testing"
)

// serveRaw serves a protocol of lines in which the server speaks first, as databases do.
//
//	echo      is answered with itself
//	rows      is answered with 300 kB and "end"
//	wait ID   is not answered
//	deaf ID   nor is anything read any more
//	flood ID  is answered without end
//	keep      is answered; the connection is kept when the client has closed its end
func serveRaw(t testing.TB, d *desk, l net.Listener) {
	over := make(chan struct{})
	var serving sync.WaitGroup
	serving.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			serving.Go(func() {
				defer c.Close()
				go func() { <-over; c.Close() }()
				converse(d, c, over)
			})
		}
	})
	t.Cleanup(func() {
		close(over)
		l.Close()
		serving.Wait()
	})
}

func converse(d *desk, c net.Conn, over <-chan struct{}) {
	fmt.Fprint(c, "hello")
	for lines := bufio.NewScanner(c); lines.Scan(); {
		command, id, _ := strings.Cut(lines.Text(), " ")
		switch command {
		case "echo":
			fmt.Fprintln(c, command)
		case "rows":
			fmt.Fprintln(c, strings.Repeat("a row of the table ", 15_000)+"end")
		case "wait":
			d.arrive(id)
			_, _ = c.Read(make([]byte, 1))
			<-over
		case "deaf":
			d.arrive(id)
			<-over
		case "flood":
			d.arrive(id)
			for chunk := make([]byte, 1<<16); ; {
				if _, err := c.Write(chunk); err != nil {
					return
				}
			}
		case "keep":
			fmt.Fprintln(c, "kept")
			_, _ = c.Read(make([]byte, 1))
			<-over
		}
	}
}
