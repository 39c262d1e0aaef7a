package catalog

import (
	"strings"
	"testing"

	"github.com/thermocline/thermocline/record"
)

func TestTablePointer(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	ctx := t.Context()
	_, b := f.stream(t, "s")
	id := b.TableUUID
	_, err := f.TablePointer(ctx, id)
	wantErr(t, "read before it is made", err, record.ErrNotFound)
	wantErr(t, "swap before it is made", f.SwapTablePointer(ctx, id, "m0", "m1"), record.ErrNotFound)
	wantErr(t, "make for no branch", f.CreateTablePointer(ctx, "no table", "m0"), record.ErrNotFound)
	wantErr(t, "make at nothing", f.CreateTablePointer(ctx, id, ""), record.ErrInvalid)
	ok(t, f.CreateTablePointer(ctx, id, "m0"))
	wantErr(t, "make twice", f.CreateTablePointer(ctx, id, "m0"), record.ErrExists)

	ok(t, f.SwapTablePointer(ctx, id, "m0", "m1"))
	err = f.SwapTablePointer(ctx, id, "m0", "m2")
	wantErr(t, "swap from an old location", err, record.ErrConflict)
	if !strings.Contains(err.Error(), "at m1, not at m0") {
		t.Errorf("error %q does not say where the pointer stands", err)
	}
	wantErr(t, "swap to the same", f.SwapTablePointer(ctx, id, "m1", "m1"), record.ErrInvalid)
	wantErr(t, "swap to nothing", f.SwapTablePointer(ctx, id, "m1", ""), record.ErrInvalid)
	if at, err := f.open(t).TablePointer(ctx, id); err != nil || at != "m1" {
		t.Errorf("pointer at %q, %v", at, err)
	}
	for location, want := range map[string]bool{"m0": false, "m1": true} {
		if got, err := f.TablePointerReferenced(ctx, location); err != nil || got != want {
			t.Errorf("referenced(%s) = %v, %v", location, got, err)
		}
	}
	if got, err := f.TablesSharing(ctx, id); err != nil || len(got) != 1 || got[id] != "m1" {
		t.Errorf("sharing: %v, %v", got, err)
	}
}

func BenchmarkSwapTablePointer(b *testing.B) {
	f := newFixture(b)
	_, branch := f.stream(b, "s")
	at, to := "m0", "m1"
	ok(b, f.CreateTablePointer(b.Context(), branch.TableUUID, at))
	for b.Loop() {
		ok(b, f.SwapTablePointer(b.Context(), branch.TableUUID, at, to))
		at, to = to, at
	}
}

func BenchmarkResolve(b *testing.B) {
	f := newFixture(b)
	fillStreams(b, f, 10_000)
	_, err := f.writer.ExecContext(b.Context(), `UPDATE counters SET last = 20000 WHERE name = 'stream'`)
	ok(b, err)
	f.stream(b, "wanted")
	for b.Loop() {
		if _, _, err := f.Resolve(b.Context(), "default", "wanted", "main"); err != nil {
			b.Fatal(err)
		}
	}
}
