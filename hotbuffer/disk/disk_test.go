package disk

import (
	"log/slog"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
	"go.uber.org/goleak"

	"github.com/thermocline/thermocline/hotbuffer"
	"github.com/thermocline/thermocline/hotbuffer/hotbuffertest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// quiet keeps expected damage out of the test's output.
func quiet() *slog.Logger { return slog.New(slog.DiscardHandler) }

// TestConformance runs the suite on a real directory and in memory, with and
// without memory for recent rows.
func TestConformance(t *testing.T) {
	t.Parallel()
	for name, o := range map[string]func(t *testing.T) (string, Options){
		"directory": func(t *testing.T) (string, Options) {
			return t.TempDir(), Options{SegmentBytes: 256 << 10}
		},
		"memory": func(*testing.T) (string, Options) {
			return "log", Options{SegmentBytes: 64 << 10, FS: vfs.NewMem()}
		},
		"without cache": func(*testing.T) (string, Options) {
			return "log", Options{SegmentBytes: 128 << 10, FS: vfs.NewMem(), CacheBytes: -1}
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			hotbuffertest.Run(t, func(t *testing.T) func() hotbuffer.Buffer {
				dir, o := o(t)
				o.Logger = quiet()
				return func() hotbuffer.Buffer {
					l, err := Open(dir, o)
					if err != nil {
						t.Fatalf("open: %v", err)
					}
					if d := l.LogStats().Damage; len(d) > 0 {
						t.Errorf("damage: %v", &d[0])
					}
					return l
				}
			})
		})
	}
}
