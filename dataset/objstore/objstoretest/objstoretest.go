// Package objstoretest is the conformance suite of objstore.Store: every
// store must pass it.
package objstoretest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/thermocline/thermocline/dataset/objstore"
	"github.com/thermocline/thermocline/record"
)

// Run runs the suite; open returns a new, empty store for each test.
func Run(t *testing.T, open func(t *testing.T) objstore.Store) {
	tests := []struct {
		name string
		run  func(*testing.T, objstore.Store)
	}{
		{"RoundTrip", roundTrip},
		{"EmptyObject", emptyObject},
		{"NeverOverwrites", neverOverwrites},
		{"OneOfManyWriters", oneOfManyWriters},
		{"InvisibleBeforeCommit", invisibleBeforeCommit},
		{"AbortLeavesNothing", abortLeavesNothing},
		{"MissingIsNotFound", missingIsNotFound},
		{"DeleteIsIdempotent", deleteIsIdempotent},
		{"ListIsSortedAndComplete", listIsSortedAndComplete},
		{"ListStopsEarly", listStopsEarly},
		{"RangedReads", rangedReads},
		{"KeysCannotEscape", keysCannotEscape},
		{"URIs", uris},
		{"Cancelled", cancelled},
		{"GetIsLimited", getIsLimited},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			tt.run(t, open(t))
		})
	}
}

func put(t *testing.T, s objstore.Store, key string, data []byte) {
	t.Helper()
	if err := objstore.Put(t.Context(), s, key, data); err != nil {
		t.Fatalf("put %s: %v", key, err)
	}
}

func get(t *testing.T, s objstore.Store, key string) []byte {
	t.Helper()
	b, err := objstore.Get(t.Context(), s, key, 1<<30)
	if err != nil {
		t.Fatalf("get %s: %v", key, err)
	}
	return b
}

func list(t *testing.T, s objstore.Store, prefix string) []string {
	t.Helper()
	keys := []string{}
	for info, err := range s.List(t.Context(), prefix) {
		if err != nil {
			t.Fatalf("list %q: %v", prefix, err)
		}
		keys = append(keys, info.Key)
	}
	return keys
}

func wantIs(t *testing.T, err, target error, what string) {
	t.Helper()
	if !errors.Is(err, target) {
		t.Errorf("%s: error %v, want %v", what, err, target)
	}
}

// random returns reproducible bytes that do not repeat.
func random(n int) []byte {
	r := rand.New(rand.NewPCG(1, uint64(n)))
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(r.Uint32())
	}
	return b
}

func roundTrip(t *testing.T, s objstore.Store) {
	data := random(3<<20 + 17) // above the buffers of any implementation
	w, err := s.Create(t.Context(), "a/b-1/c.d")
	if err != nil {
		t.Fatal(err)
	}
	for rest := data; len(rest) > 0; {
		n := min(len(rest), 70_001)
		if _, err := w.Write(rest[:n]); err != nil {
			t.Fatal(err)
		}
		rest = rest[n:]
	}
	if err := w.Commit(); err != nil {
		t.Fatal(err)
	}
	w.Abort() // after Commit it does nothing
	if !bytes.Equal(get(t, s, "a/b-1/c.d"), data) {
		t.Error("other bytes came back")
	}
	info, err := s.Stat(t.Context(), "a/b-1/c.d")
	if err != nil {
		t.Fatal(err)
	}
	if info.Key != "a/b-1/c.d" || info.Size != int64(len(data)) || time.Since(info.Modified).Abs() > time.Hour {
		t.Errorf("stat says %+v", info)
	}
}

func emptyObject(t *testing.T, s objstore.Store) {
	put(t, s, "empty", nil)
	if b := get(t, s, "empty"); len(b) != 0 {
		t.Errorf("%d bytes in an empty object", len(b))
	}
}

func neverOverwrites(t *testing.T, s objstore.Store) {
	put(t, s, "x/1", []byte("first"))
	wantIs(t, objstore.Put(t.Context(), s, "x/1", []byte("second")), record.ErrExists, "second put")
	if b := get(t, s, "x/1"); string(b) != "first" {
		t.Errorf("object is now %q", b)
	}
}

func oneOfManyWriters(t *testing.T, s objstore.Store) {
	const writers = 8
	var wg sync.WaitGroup
	errs := make([]error, writers)
	for i := range writers {
		wg.Go(func() { errs[i] = objstore.Put(t.Context(), s, "race/1", fmt.Appendf(nil, "writer %d", i)) })
	}
	wg.Wait()
	winner := -1
	for i, err := range errs {
		switch {
		case err == nil && winner >= 0:
			t.Errorf("writers %d and %d both won", winner, i)
		case err == nil:
			winner = i
		default:
			wantIs(t, err, record.ErrExists, "loser")
		}
	}
	if winner < 0 {
		t.Fatal("nobody won")
	}
	if got, want := string(get(t, s, "race/1")), fmt.Sprintf("writer %d", winner); got != want {
		t.Errorf("object holds %q, the winner wrote %q", got, want)
	}
}

func invisibleBeforeCommit(t *testing.T, s objstore.Store) {
	w, err := s.Create(t.Context(), "late/1")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.Write(random(2 << 20)); err != nil {
		t.Fatal(err)
	}
	_, err = s.Stat(t.Context(), "late/1")
	wantIs(t, err, record.ErrNotFound, "stat before commit")
	if keys := list(t, s, ""); len(keys) != 0 {
		t.Errorf("listed before commit: %v", keys)
	}
	if err := w.Commit(); err != nil {
		t.Fatal(err)
	}
	if keys := list(t, s, ""); !slices.Equal(keys, []string{"late/1"}) {
		t.Errorf("listed after commit: %v", keys)
	}
	wantIs(t, w.Commit(), record.ErrClosed, "second commit")
}

func abortLeavesNothing(t *testing.T, s objstore.Store) {
	w, err := s.Create(t.Context(), "never/1")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.Write([]byte("gone")); err != nil {
		t.Fatal(err)
	}
	w.Abort()
	w.Abort()
	if keys := list(t, s, ""); len(keys) != 0 {
		t.Errorf("listed after abort: %v", keys)
	}
	put(t, s, "never/1", []byte("free again"))
}

func missingIsNotFound(t *testing.T, s objstore.Store) {
	put(t, s, "dir/file", []byte("x"))
	for _, key := range []string{"no", "no/such/object", "dir", "dir/file2"} {
		_, err := s.Open(t.Context(), key)
		wantIs(t, err, record.ErrNotFound, "open "+key)
		_, err = s.Stat(t.Context(), key)
		wantIs(t, err, record.ErrNotFound, "stat "+key)
	}
}

func deleteIsIdempotent(t *testing.T, s objstore.Store) {
	put(t, s, "d/1", []byte("x"))
	put(t, s, "d/2", []byte("y"))
	for range 2 {
		if err := s.Delete(t.Context(), "d/1"); err != nil {
			t.Fatal(err)
		}
	}
	if keys := list(t, s, ""); !slices.Equal(keys, []string{"d/2"}) {
		t.Errorf("left: %v", keys)
	}
}

func listIsSortedAndComplete(t *testing.T, s objstore.Store) {
	// "a-b", "a.x" and "a/…" sort by bytes across the directory border.
	keys := []string{"a/1", "a/10", "a/2", "a-b", "a.x", "a/b/c/d", "a0", "b/1", "bb"}
	for _, k := range keys {
		put(t, s, k, []byte(k))
	}
	for _, prefix := range []string{"", "a", "a/", "a/1", "a/b", "a/b/", "b", "bb", "c", "a/b/c/d"} {
		want := []string{}
		for _, k := range keys {
			if strings.HasPrefix(k, prefix) {
				want = append(want, k)
			}
		}
		slices.Sort(want)
		if got := list(t, s, prefix); !slices.Equal(got, want) {
			t.Errorf("prefix %q lists %v, want %v", prefix, got, want)
		}
	}
}

func listStopsEarly(t *testing.T, s objstore.Store) {
	for i := range 5 {
		put(t, s, fmt.Sprintf("n/%d/x", i), nil)
	}
	n := 0
	for _, err := range s.List(t.Context(), "n/") {
		if err != nil {
			t.Fatal(err)
		}
		if n++; n == 2 {
			break
		}
	}
	if n != 2 {
		t.Errorf("%d objects, stopped at 2", n)
	}
}

func rangedReads(t *testing.T, s objstore.Store) {
	data := random(1 << 20)
	put(t, s, "r", data)
	o, err := s.Open(t.Context(), "r")
	if err != nil {
		t.Fatal(err)
	}
	if o.Size() != int64(len(data)) {
		t.Errorf("size %d", o.Size())
	}
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			off := i * 100_003
			b := make([]byte, 50_000)
			if n, err := o.ReadAt(b, int64(off)); n != len(b) || !bytes.Equal(b, data[off:off+len(b)]) {
				t.Errorf("range at %d: %d bytes, %v", off, n, err)
			}
		})
	}
	wg.Wait()
	b := make([]byte, 100)
	if n, err := o.ReadAt(b, int64(len(data)-40)); n != 40 || !errors.Is(err, io.EOF) {
		t.Errorf("range over the end: %d bytes, %v; want 40 and EOF", n, err)
	}
	if n, err := o.ReadAt(b, int64(len(data))); n != 0 || !errors.Is(err, io.EOF) {
		t.Errorf("range behind the end: %d bytes, %v; want 0 and EOF", n, err)
	}
	if err := o.Close(); err != nil {
		t.Error(err)
	}
}

func keysCannotEscape(t *testing.T, s objstore.Store) {
	for _, key := range []string{
		"", "/", "/etc/passwd", "..", "../x", "a/../b", "a/./b", "./a", "a//b", "a/", ".hidden", "a/.tmp",
		"a b", "a\x00b", "a\\b", "ä", "a:b", "a%2fb", strings.Repeat("k", 600),
	} {
		_, err := s.Create(t.Context(), key)
		wantIs(t, err, record.ErrInvalid, fmt.Sprintf("create %q", key))
		_, err = s.Open(t.Context(), key)
		wantIs(t, err, record.ErrInvalid, fmt.Sprintf("open %q", key))
		_, err = s.Stat(t.Context(), key)
		wantIs(t, err, record.ErrInvalid, fmt.Sprintf("stat %q", key))
		wantIs(t, s.Delete(t.Context(), key), record.ErrInvalid, fmt.Sprintf("delete %q", key))
	}
	for _, err := range s.List(t.Context(), "../") {
		wantIs(t, err, record.ErrInvalid, "list ../")
	}
}

func uris(t *testing.T, s objstore.Store) {
	if !strings.Contains(s.Base(), "://") || !strings.HasSuffix(s.Base(), "/") {
		t.Errorf("base %q is no URI that ends in '/'", s.Base())
	}
	uri := objstore.URI(s, "t/1/data/x.parquet")
	key, err := objstore.Key(s, uri)
	if err != nil || key != "t/1/data/x.parquet" {
		t.Errorf("key of %s: %q, %v", uri, key, err)
	}
	for _, uri := range []string{"", "x", s.Base(), s.Base() + "../x", "other://x/y", "file:///etc/passwd"} {
		_, err := objstore.Key(s, uri)
		wantIs(t, err, record.ErrInvalid, "key of "+uri)
	}
}

func cancelled(t *testing.T, s objstore.Store) {
	put(t, s, "c/1", nil)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err := s.Create(ctx, "c/2")
	wantIs(t, err, context.Canceled, "create")
	_, err = s.Open(ctx, "c/1")
	wantIs(t, err, context.Canceled, "open")
	_, err = s.Stat(ctx, "c/1")
	wantIs(t, err, context.Canceled, "stat")
	wantIs(t, s.Delete(ctx, "c/1"), context.Canceled, "delete")
	var last error
	for _, err := range s.List(ctx, "c/") {
		last = err
	}
	wantIs(t, last, context.Canceled, "list")
}

func getIsLimited(t *testing.T, s objstore.Store) {
	put(t, s, "g", random(1000))
	if _, err := objstore.Get(t.Context(), s, "g", 1000); err != nil {
		t.Error(err)
	}
	_, err := objstore.Get(t.Context(), s, "g", 999)
	wantIs(t, err, record.ErrTooLarge, "get above the limit")
}
