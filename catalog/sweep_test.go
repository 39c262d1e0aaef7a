package catalog

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/thermocline/thermocline/record"
)

// TestSweepDamage flips bits all over the file, cuts it, and zeroes and swaps its
// pages. After a clean shutdown all of it is found at the next start; after a
// crash what breaks the structure is, and a call never takes damage for anything
// but record.ErrCorrupt.
func TestSweepDamage(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	for i := range 5 {
		_, b := f.stream(t, fmt.Sprint("s", i))
		ok(t, f.CreateTablePointer(t.Context(), b.TableUUID, fmt.Sprint("file:///w/", i)))
		var cps []Checkpoint
		for n := range int64(40) {
			cps = append(cps, Checkpoint{View: b.View.ID, Number: n + 1, Cut: make(record.Offsets, 10)})
		}
		ok(t, f.AddCheckpoints(t.Context(), cps))
	}
	ok(t, f.Close())
	good, err := os.ReadFile(f.path)
	ok(t, err)
	sum, err := os.ReadFile(f.path + sumSuffix)
	ok(t, err)
	dir := t.TempDir()
	n, found, unseen := 0, 0, 0
	damage := func(what string, closed bool, b []byte) {
		if bytes.Equal(b, good) || t.Failed() {
			return
		}
		n++
		path := filepath.Join(dir, fmt.Sprint(closed, n))
		ok(t, os.WriteFile(path, b, 0o600))
		if closed {
			ok(t, os.WriteFile(path+sumSuffix, sum, 0o600))
		}
		c, err := Open(t.Context(), Options{Path: path})
		if closed && (err == nil || !errors.Is(err, record.ErrCorrupt) || !strings.Contains(err.Error(), path)) {
			t.Errorf("%s: %v", what, err)
		}
		if err != nil {
			found++
			return
		}
		_, err = c.ListStreams(t.Context(), StreamQuery{})
		if err == nil {
			for i := BranchID(1); i <= 5 && err == nil; i++ {
				var b Branch
				if b, err = c.BranchByID(t.Context(), i); err == nil {
					_, err = c.TablesSharing(t.Context(), b.TableUUID)
				}
			}
		}
		if err != nil {
			found++
		} else {
			unseen++
		}
		ok(t, c.Close())
	}
	const page = 4096
	for _, closed := range []bool{true, false} {
		step := 61
		if !closed {
			step = 1021 // each costs a whole start
		}
		for pos := 0; pos < len(good); pos += step {
			b := bytes.Clone(good)
			b[pos] ^= 1 << (pos % 8)
			damage(fmt.Sprintf("byte %d", pos), closed, b)
		}
		for pos := page; pos < len(good); pos += page {
			damage(fmt.Sprintf("cut at %d", pos), closed, good[:pos])
			b := bytes.Clone(good)
			clear(b[pos : pos+page])
			damage(fmt.Sprintf("zeros at %d", pos), closed, b)
			if pos+2*page <= len(good) {
				b := bytes.Clone(good)
				copy(b[pos:], good[pos+page:pos+2*page])
				copy(b[pos+page:], good[pos:pos+page])
				damage(fmt.Sprintf("swapped at %d", pos), closed, b)
			}
		}
		t.Logf("sweep: %s, closed %v: %d damages, %d found, %d harmless or not to be told", t.Name(), closed, n, found, unseen)
		if closed && (unseen > 0 || n < 2000) {
			t.Errorf("%d of %d were not found", unseen, n)
		}
		n, found, unseen = 0, 0, 0
	}
}

// TestSum: a checksum is there while nobody has the file open, and only then.
func TestSum(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	there := func() bool {
		_, err := os.Stat(f.path + sumSuffix)
		return err == nil
	}
	second := f.open(t)
	f.stream(t, "s")
	ok(t, second.Close())
	if there() {
		t.Error("a checksum, and the file is in use")
	}
	ok(t, f.Close())
	if !there() {
		t.Fatal("no checksum")
	}
	// Closed by a program that does not know of checksums, or changed by hand.
	ok(t, os.WriteFile(f.path+sumSuffix, []byte("torn"), 0o600))
	again := f.open(t)
	if there() {
		t.Error("a checksum, and the file is open")
	}
	_, err := again.ListStreams(t.Context(), StreamQuery{})
	ok(t, err)
	ok(t, again.Close())
	if !there() {
		t.Error("no checksum after the second time")
	}
	left, err := filepath.Glob(f.path + "*")
	ok(t, err)
	if len(left) != 2 {
		t.Errorf("files are left: %v", left)
	}
}
