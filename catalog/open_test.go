package catalog

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/pressly/goose/v3"

	"github.com/thermocline/thermocline/record"
)

func TestOpenAgain(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	s, b := f.stream(t, "s")
	id := f.ClusterID()
	if len(id) != 36 {
		t.Errorf("cluster id %q is not a UUID", id)
	}
	for range 3 {
		ok(t, f.Close())
		f.Catalog = f.open(t)
		if f.ClusterID() != id {
			t.Errorf("cluster id %s after %s", f.ClusterID(), id)
		}
		if s2, b2, err := f.Resolve(t.Context(), s.Namespace, s.Name, b.Name); err != nil || s2 != s || b2.TableUUID != b.TableUUID {
			t.Errorf("after reopening: %+v, %+v, %v", s2, b2, err)
		}
	}
	if newFixture(t).ClusterID() == id {
		t.Error("two catalogs with one cluster id")
	}
	if n := f.count(t, `SELECT count(*) FROM goose_db_version WHERE version_id > 0`); n != len(migrationNames(t)) {
		t.Errorf("%d migrations recorded, there are %d", n, len(migrationNames(t)))
	}
}

func migrationNames(t *testing.T) []string {
	entries, err := migrationFiles.ReadDir("migrations")
	ok(t, err)
	var names []string
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return names
}

// TestDurable: every connection that commits syncs, also one that took the place
// of one that a cancelled call broke.
func TestDurable(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	for round := range 3 {
		var mode string
		var synchronous, foreignKeys int
		ok(t, f.writer.QueryRowContext(t.Context(), `PRAGMA journal_mode`).Scan(&mode))
		ok(t, f.writer.QueryRowContext(t.Context(), `PRAGMA synchronous`).Scan(&synchronous))
		ok(t, f.writer.QueryRowContext(t.Context(), `PRAGMA foreign_keys`).Scan(&foreignKeys))
		if mode != "wal" || synchronous != 2 || foreignKeys != 1 {
			t.Errorf("round %d: journal mode %s, synchronous %d, foreign keys %d; want wal, 2 (FULL), 1", round, mode, synchronous, foreignKeys)
		}
		conn, err := f.writer.Conn(t.Context())
		ok(t, err)
		_ = conn.Raw(func(any) error { return driver.ErrBadConn }) // discards it
	}
	_, err := f.readers.ExecContext(t.Context(), `DELETE FROM views`)
	if err == nil {
		t.Error("a reader's connection can write")
	}
}

// TestOpenTogether: any number may find no catalog at once; it is made once.
func TestOpenTogether(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "catalog.db")
	ids := make([]string, 6)
	var wg sync.WaitGroup
	for i := range ids {
		wg.Go(func() {
			c, err := Open(t.Context(), Options{Path: path})
			if err != nil {
				t.Error(err)
				return
			}
			ids[i] = c.ClusterID()
			if err := c.Close(); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	for _, id := range ids {
		if id != ids[0] {
			t.Errorf("cluster ids %q", ids)
		}
	}
}

func TestOpenRefuses(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	garbage := filepath.Join(dir, "garbage")
	ok(t, os.WriteFile(garbage, []byte(strings.Repeat("this is no database", 1000)), 0o600))

	f := newFixture(t)
	fillPages(t, f)
	_, err := f.writer.ExecContext(t.Context(), `INSERT INTO goose_db_version (version_id, is_applied) VALUES (999, 1)`)
	ok(t, err)
	ok(t, f.Close())
	content, err := os.ReadFile(f.path)
	ok(t, err)
	// A page in the middle, overwritten.
	for i := range 4096 {
		content[len(content)/2/4096*4096+i] ^= 0x55
	}
	damaged := filepath.Join(dir, "damaged")
	ok(t, os.WriteFile(damaged, content, 0o600))

	for _, c := range []struct {
		path string
		want error
		hint string
	}{
		{"", record.ErrInvalid, "Options.Path"},
		{filepath.Join(dir, "none", "catalog.db"), record.ErrNotFound, "create it first"},
		{filepath.Join(garbage, "catalog.db"), record.ErrNotFound, "create it first"},
		{garbage, record.ErrCorrupt, "restore"},
		{damaged, record.ErrCorrupt, "restore"},
		{f.path, record.ErrInvalid, "newer program"},
	} {
		got, err := Open(t.Context(), Options{Path: c.path})
		wantErr(t, c.path, err, c.want)
		if got != nil {
			t.Errorf("%s: open in spite of the error", c.path)
		}
		if err != nil && !strings.Contains(err.Error(), c.hint) {
			t.Errorf("error %q does not say %q", err, c.hint)
		}
	}
	after, err := os.ReadFile(damaged)
	ok(t, err)
	if string(after) != string(content) {
		t.Error("opening changed a damaged file")
	}
}

// fillPages makes the file a few hundred pages long.
func fillPages(t *testing.T, f *fixture) {
	_, b := f.stream(t, "s")
	var cps []Checkpoint
	for i := range int64(3000) {
		cps = append(cps, Checkpoint{View: b.View.ID, Number: i + 1, Cut: make(record.Offsets, 100)})
	}
	ok(t, f.AddCheckpoints(t.Context(), cps))
}

// TestOpenAnyPath: no character of a path is taken for part of a URL.
func TestOpenAnyPath(t *testing.T) {
	t.Parallel()
	for _, name := range []string{"with space.db", "a?mode=memory", "50%25.db", "x#y&z;.db", "ü'\".db", ":memory:"} {
		path := filepath.Join(t.TempDir(), name)
		c, err := Open(t.Context(), Options{Path: path})
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		ok(t, c.Close())
		if _, err := os.Stat(path); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestClose(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	_, b := f.stream(t, "s")
	// A call that waits for another process's lock must not keep Close waiting.
	release := f.hold(t)
	defer release()
	waiting := make(chan error, 1)
	go func() { waiting <- f.RetireView(context.WithoutCancel(t.Context()), b.View.ID) }()
	time.Sleep(50 * time.Millisecond)
	start := time.Now()
	for range 2 {
		ok(t, f.Close())
	}
	wantErr(t, "call under way", <-waiting, record.ErrClosed)
	if d := time.Since(start); d > 5*time.Second {
		t.Errorf("closing took %v", d)
	}
	wantErr(t, "read after close", second(f.BranchByID(t.Context(), b.ID)), record.ErrClosed)
	wantErr(t, "write after close", f.RetireView(t.Context(), b.View.ID), record.ErrClosed)
}

// hold takes the write lock as another process would, until release is called.
func (f *fixture) hold(t *testing.T) (release func()) {
	other := f.open(t)
	tx, err := other.writer.BeginTx(t.Context(), nil)
	ok(t, err)
	return func() { _ = tx.Rollback() }
}

func TestCallsEnd(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	_, b := f.stream(t, "s")
	release := f.hold(t)
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	start := time.Now()
	_, err := f.ResetBranch(ctx, b.ID, b.Version, Reset{})
	wantErr(t, "write while another holds the lock", err, record.ErrBusy)
	wantErr(t, "write while another holds the lock", err, context.DeadlineExceeded)
	if d := time.Since(start); d > 2*time.Second {
		t.Errorf("the call ended after %v", d)
	}
	// Reading goes on meanwhile.
	got, err := f.BranchByID(t.Context(), b.ID)
	if err != nil || got.Version != b.Version {
		t.Errorf("read while another writes: %+v, %v", got, err)
	}
	// Whoever has time waits until the lock is free.
	time.AfterFunc(250*time.Millisecond, release)
	_, err = f.ResetBranch(t.Context(), b.ID, b.Version, Reset{})
	ok(t, err)

	gone, cancel := context.WithCancel(t.Context())
	cancel()
	wantErr(t, "write with a context that has ended", f.RetireView(gone, b.View.ID), context.Canceled)
	wantErr(t, "read with a context that has ended", second(f.BranchByID(gone, b.ID)), context.Canceled)
}

// TestOutcome: a failure before the commit changes nothing and says so; a failure
// of the commit is told apart.
func TestOutcome(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	_, b := f.stream(t, "s")
	err := f.write(t.Context(), "test", func(ctx context.Context, tx *sql.Tx) error {
		// Makes the commit itself find the violation.
		if _, err := tx.ExecContext(ctx, `PRAGMA defer_foreign_keys = 1`); err != nil {
			return err
		}
		_, err := tx.ExecContext(ctx, `INSERT INTO leases (view_id, owner, epoch, expires_ms) VALUES (99, 'a', 1, 1)`)
		return err
	})
	wantErr(t, "failed commit", err, ErrOutcomeUnknown)

	stop := errors.New("stop")
	err = f.write(t.Context(), "test", func(ctx context.Context, tx *sql.Tx) error {
		_, err := tx.ExecContext(ctx, `DELETE FROM views`)
		return errors.Join(err, stop)
	})
	wantErr(t, "failure before the commit", err, stop)
	ctx, cancel := context.WithCancel(t.Context())
	err2 := f.write(ctx, "test", func(ctx context.Context, tx *sql.Tx) error {
		_, err := tx.ExecContext(ctx, `DELETE FROM views`)
		cancel()
		return err
	})
	wantErr(t, "cancelled before the commit", err2, context.Canceled)
	for _, err := range []error{err, err2} {
		if errors.Is(err, ErrOutcomeUnknown) {
			t.Errorf("known failure is reported as unknown: %v", err)
		}
	}
	if _, err := f.View(t.Context(), b.View.ID); err != nil {
		t.Errorf("a failed transaction left a trace: %v", err)
	}
}

func TestFullDisk(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	_, b := f.stream(t, "s")
	ok(t, f.CreateTablePointer(t.Context(), b.TableUUID, "m0"))
	_, err := f.writer.ExecContext(t.Context(), `PRAGMA max_page_count = 1`) // clamped to what there is
	ok(t, err)
	err = f.SwapTablePointer(t.Context(), b.TableUUID, "m0", strings.Repeat("x", 1<<20))
	wantErr(t, "no room", err, record.ErrFull)
	if errors.Is(err, ErrOutcomeUnknown) {
		t.Errorf("known failure is reported as unknown: %v", err)
	}
	if at, err := f.TablePointer(t.Context(), b.TableUUID); err != nil || at != "m0" {
		t.Errorf("pointer at %q, %v", at, err)
	}
	ok(t, f.SwapTablePointer(t.Context(), b.TableUUID, "m0", "m1")) // fits
	var cps []Checkpoint
	for i := range int64(1000) {
		cps = append(cps, Checkpoint{View: b.View.ID, Number: i + 1, Cut: make(record.Offsets, 100)})
	}
	err = f.AddCheckpoints(t.Context(), cps)
	wantErr(t, "no room for checkpoints", err, record.ErrFull)
	var refused *CheckpointError
	if errors.As(err, &refused) {
		t.Errorf("a full disk is blamed on a view: %v", err)
	}
}

// TestStatementsArePortable keeps what only SQLite understands inside its file.
func TestStatementsArePortable(t *testing.T) {
	t.Parallel()
	check := func(name, text string) (found []string) {
		for _, word := range []string{
			"pragma", "autoincrement", "insert or ", "replace into", "rowid", "strftime", "datetime(", "julianday",
			"ifnull", "glob ", "integer primary key", "indexed by", "total_changes", "last_insert", "json_", "values (?", "= ?",
		} {
			if strings.Contains(strings.ToLower(text), word) {
				found = append(found, name+": "+word)
			}
		}
		return found
	}
	if len(check("fixture", "INSERT OR IGNORE INTO x VALUES (?)")) != 2 {
		t.Fatal("the check finds nothing")
	}
	files, err := filepath.Glob("*.go")
	ok(t, err)
	more, err := filepath.Glob("migrations/*.sql")
	ok(t, err)
	if len(more) == 0 {
		t.Fatal("no migrations found")
	}
	for _, name := range append(files, more...) {
		if name == "sqlite.go" || strings.HasSuffix(name, "_test.go") {
			continue
		}
		text, err := os.ReadFile(name)
		ok(t, err)
		for _, f := range check(name, string(text)) {
			t.Errorf("not portable: %s", f)
		}
	}
}

// downTo takes the newest migrations back, so that the next Open does them again.
func downTo(t *testing.T, f *fixture, version int64) {
	t.Helper()
	sources, err := fs.Sub(migrationFiles, "migrations")
	ok(t, err)
	p, err := goose.NewProvider(migrationDialect, f.writer, sources, goose.WithLogger(goose.NopLogger()), goose.WithDisableGlobalRegistry(true))
	ok(t, err)
	_, err = p.DownTo(t.Context(), version)
	ok(t, err)
}
