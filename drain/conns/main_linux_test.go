package conns

import (
	"os"
	"testing"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) {
	if os.Getenv(holdConnections) != "" {
		hold()
		return
	}
	goleak.VerifyTestMain(m)
}
