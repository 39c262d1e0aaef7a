package node

import (
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
)

// A new data directory is there after a loss of power, with all its parents.
func TestDataDirectorySurvives(t *testing.T) {
	t.Parallel()
	mem := vfs.NewCrashableMem()
	for _, dir := range []string{"/srv/streams/data", "/srv/streams/other", "/srv"} {
		if err := makeDir(mem, dir); err != nil {
			t.Fatal(err)
		}
		if _, err := mem.CrashClone(vfs.CrashCloneCfg{}).Stat(dir); err != nil {
			t.Errorf("after a crash: %v", err)
		}
	}
}
