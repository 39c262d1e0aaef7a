package node

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/thermocline/thermocline/record"
)

// A data directory that was moved, or is opened with another warehouse, is refused
// before anything is written where nobody would find it.
func TestOtherWarehouseIsRefused(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "a")
	n, err := Open(t.Context(), Options{Dir: dir, SegmentBytes: 1 << 20})
	if err != nil {
		t.Fatal(err)
	}
	if err := n.Close(); err != nil {
		t.Fatal(err)
	}
	moved := filepath.Join(filepath.Dir(dir), "b")
	if err := os.Rename(dir, moved); err != nil {
		t.Fatal(err)
	}
	if n, err := Open(t.Context(), Options{Dir: moved, SegmentBytes: 1 << 20}); !errors.Is(err, record.ErrConflict) {
		t.Errorf("a moved data directory: %v", err)
		if err == nil {
			n.Close()
		}
	}
	if err := os.Rename(moved, dir); err != nil {
		t.Fatal(err)
	}
	n, err = Open(t.Context(), Options{Dir: dir, SegmentBytes: 1 << 20})
	if err != nil {
		t.Fatal(err)
	}
	if err := n.Close(); err != nil {
		t.Fatal(err)
	}
}
