package disk

import (
	"bytes"
	"errors"
	"strings"
	"testing"

	"github.com/thermocline/thermocline/record"
)

// TestReadStoredSeesTheFile damages the file of batches that are still in memory:
// Read goes on, ReadStored names place and rows.
func TestReadStoredSeesTheFile(t *testing.T) {
	t.Parallel()
	h := newHarness(t, Options{})
	h.add(1, 0, "first")
	h.add(1, 0, "second", "third")
	h.add(1, 0, "fourth")
	if b, err := h.ReadStored(t.Context(), 1, 0, 0, 1<<20); err != nil || len(b) != 3 || b[2].End() != 4 {
		t.Fatalf("sound: %d batches, %v", len(b), err)
	}
	damaged := false
	for _, name := range h.names() {
		if !strings.HasSuffix(name, segmentSuffix) {
			continue
		}
		b := h.file(name)
		if at := bytes.Index(b, []byte("second")); at >= 0 {
			write(t, h.mem, name, at, []byte{b[at] ^ 1})
			damaged = true
		}
	}
	if !damaged {
		t.Fatal("the row is in no segment")
	}
	if b, err := h.Read(t.Context(), 1, 0, 0, 1<<20); err != nil || len(b) != 3 {
		t.Fatalf("from memory: %d batches, %v", len(b), err)
	}
	if b, err := h.ReadStored(t.Context(), 1, 0, 0, 1<<20); err != nil || len(b) != 1 {
		t.Fatalf("before the damage: %d batches, %v", len(b), err)
	}
	_, err := h.ReadStored(t.Context(), 1, 0, 1, 1<<20)
	var d *Damage
	if !errors.Is(err, record.ErrCorrupt) || !errors.As(err, &d) || d.Offsets != (record.Range{Start: 1, End: 3}) || d.View != 1 || d.Position <= 0 {
		t.Fatalf("damage: %v", err)
	}
	if b, err := h.ReadStored(t.Context(), 1, 0, 3, 1<<20); err != nil || len(b) != 1 {
		t.Fatalf("behind the damage: %d batches, %v", len(b), err)
	}
}
