package catalog

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/thermocline/thermocline/schema"
)

// TestMain also serves as the other process of the tests that need one: started
// with childTask set, the binary runs that task instead of the tests.
func TestMain(m *testing.M) {
	if task := os.Getenv(childTask); task != "" {
		if err := runChild(task, os.Getenv(childCatalog)); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	goleak.VerifyTestMain(m)
}

// clock is a clock that stands still until it is moved.
type clock struct {
	mu  sync.Mutex
	now time.Time
}

func newClock() *clock { return &clock{now: time.UnixMilli(1_700_000_000_000).UTC()} }

func (c *clock) Now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.now
}

func (c *clock) advance(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.now = c.now.Add(d)
}

// fixture is an open catalog on a file of its own.
type fixture struct {
	*Catalog
	path  string
	clock *clock
}

func newFixture(t testing.TB) *fixture {
	t.Helper()
	f := &fixture{path: filepath.Join(t.TempDir(), "catalog.db"), clock: newClock()}
	f.Catalog = f.open(t)
	return f
}

// open opens the fixture's file once more, as another process would.
func (f *fixture) open(t testing.TB) *Catalog {
	t.Helper()
	c, err := Open(t.Context(), Options{Path: f.path, Now: f.clock.Now})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := c.Close(); err != nil {
			t.Errorf("close: %v", err)
		}
	})
	return c
}

// newSchema is a schema of LONG fields that take the ids from first.
func newSchema(first int, names ...string) NewSchema {
	s := &schema.Schema{}
	for i, n := range names {
		s.Fields = append(s.Fields, schema.Field{ID: first + i, Name: n, Type: schema.Type{Kind: schema.Long}, Nullable: true})
	}
	return NewSchema{Schema: s, FirstFieldID: first, NextFieldID: first + len(names)}
}

func (f *fixture) stream(t testing.TB, name string) (Stream, Branch) {
	t.Helper()
	s, b, err := f.CreateStream(t.Context(), NewStream{Name: name, Schema: newSchema(schema.FirstUserID, "id", "value")})
	if err != nil {
		t.Fatal(err)
	}
	return s, b
}

// secondBranch adds a branch the way package branch will.
func (f *fixture) secondBranch(t testing.TB, from Branch, name string) Branch {
	t.Helper()
	var b Branch
	err := f.write(t.Context(), "test", func(ctx context.Context, tx *sql.Tx) (err error) {
		r, err := reserve(ctx, tx, from.Stream)
		if err != nil {
			return err
		}
		b, err = insertBranch(ctx, tx, Branch{Stream: from.Stream, Name: name, Settings: from.Settings, SchemaID: from.SchemaID, Created: f.clock.Now()}, r)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func wantErr(t testing.TB, what string, err, want error) {
	t.Helper()
	if !errors.Is(err, want) {
		t.Errorf("%s: got error %v, want %v", what, err, want)
	}
}

func ok(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// count runs a query of one number.
func (f *fixture) count(t testing.TB, query string, args ...any) int {
	t.Helper()
	var n int
	ok(t, f.readers.QueryRowContext(t.Context(), query, args...).Scan(&n))
	return n
}
