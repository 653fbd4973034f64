package drain

import (
	"fmt"
	"log/slog"
	"os"
	"testing"
	"testing/synctest"
	"time"
)

func TestZZ(t *testing.T) {
	h := scenario{Kinds:[]string{"app", "app", "app", "other app"}, Delays:[]time.Duration{0, 300000000, 20000000000, 20000000000}, Given:false, Blind:true, Registries:1, Quiet:4000000000, Late:false, Resumed:false, Actions:[]action{action{Name:"see", Who:1, Pause:30000000000}, action{Name:"stopping", Who:2, Pause:0}, action{Name:"resume", Who:0, Pause:0}, action{Name:"hook", Who:1, Pause:1000000}, action{Name:"hook", Who:1, Pause:0}}}
	for range 3000 {
		var wrong []string
		f, _ := os.Create("/tmp/kd_zz.log")
		zzlog = slog.New(slog.NewTextHandler(f, nil))
		synctest.Test(t, func(t *testing.T) { wrong = h.live(t.Context()) })
		if len(wrong) > 0 {
			fmt.Println(wrong)
			t.Fatal()
		}
	}
}
