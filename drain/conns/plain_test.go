package conns

import "testing"

func TestAPortIsPlainOnceEnoughClientsWereAnsweredAtOnce(t *testing.T) {
	answered := seen(0, 0, 0, 120, 160, 1, 1)
	for name, c := range map[string]struct {
		samples []sample
		want    bool
	}{
		"never":                         {nil, false},
		"too few":                       {[]sample{answered, answered}, false},
		"enough":                        {[]sample{answered, answered, answered}, true},
		"among handshakes":              {[]sample{answered, seen(0, 0, 0, 800, 3000, 3, 3), answered, answered}, true},
		"nobody was answered":           {[]sample{seen(0, 0, 0, 120, 0, 1, 0), seen(0, 0, 0, 120, 0, 1, 0), seen(0, 0, 0, 120, 0, 1, 0)}, false},
		"a TLS alert is no answer":      {[]sample{seen(0, 0, 0, 300, 7, 1, 1), seen(0, 0, 0, 300, 7, 1, 1), seen(0, 0, 0, 300, 7, 1, 1)}, false},
		"the kernel tells no segments":  {[]sample{{hasBytes: true, bytesSent: 160}, {hasBytes: true, bytesSent: 160}, {hasBytes: true, bytesSent: 160}}, false},
		"HTTP/2 has an opening as well": {[]sample{seen(0, 0, 0, 129, 160, 3, 3), seen(0, 0, 0, 129, 160, 3, 3), seen(0, 0, 0, 129, 160, 3, 3)}, false},
	} {
		t.Run(name, func(t *testing.T) {
			var p plain
			for _, s := range c.samples {
				p.note(8080, s)
			}
			if p.known(8080) != c.want || p.known(8081) {
				t.Errorf("8080 is plain: %v, 8081: %v", p.known(8080), p.known(8081))
			}
			if p.forget(); p.known(8080) {
				t.Error("it is still known after it is forgotten")
			}
		})
	}
}
