package node

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/thermocline/thermocline/api"
	"github.com/thermocline/thermocline/branch"
	"github.com/thermocline/thermocline/catalog"
	"github.com/thermocline/thermocline/record"
	"github.com/thermocline/thermocline/schema/ocf"
	"github.com/thermocline/thermocline/transaction"
	"github.com/thermocline/thermocline/verify"
	"github.com/thermocline/thermocline/writer"
)

// erasedKey is the key of the rows that are erased; no other bytes look like it.
const erasedKey = "zz-to-be-erased"

// holding names the files of the data directory that hold the erased key, as they
// are or decompressed.
func (w *world) holding() (names []string) {
	w.t.Helper()
	err := filepath.WalkDir(w.dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		data, err := os.ReadFile(path)
		if errors.Is(err, fs.ErrNotExist) {
			return nil // the log's files come and go
		}
		if err != nil {
			return err
		}
		found := bytes.Contains(data, []byte(erasedKey))
		if strings.HasSuffix(path, ".avro") {
			r, err := ocf.NewReader(bytes.NewReader(data))
			for err == nil && !found {
				var block []byte
				if _, block, err = r.Next(); err == nil {
					found = bytes.Contains(block, []byte(erasedKey))
				}
			}
			if err != nil && !errors.Is(err, io.EOF) {
				return err
			}
		}
		if found {
			names = append(names, path)
		}
		return nil
	})
	if err != nil {
		w.t.Fatal(err)
	}
	return names
}

// putErased publishes rows that are to be erased among others.
func (w *world) putErased(branch string, ns ...int64) {
	w.t.Helper()
	var b strings.Builder
	for _, n := range ns {
		fmt.Fprintf(&b, `{"k":"%s","n":%d}`+"\n", erasedKey, n)
	}
	if _, err := w.node.writer.Publish(w.t.Context(), writer.Request{Stream: "s", Branch: branch, Format: writer.JSON, Body: []byte(b.String())}); err != nil {
		w.t.Fatal(err)
	}
}

// wantSound: the oracle finds nothing wrong with a branch.
func (w *world) wantSound(branch string) {
	w.t.Helper()
	err := w.node.verifier.Branch(w.t.Context(), "s", branch, verify.Request{}, func(e verify.Event) error {
		if e.Finding != nil && e.Finding.Severity != verify.Notice {
			w.t.Errorf("branch %s: %v", branch, e.Finding)
		}
		return nil
	})
	if err != nil {
		w.t.Fatal(err)
	}
}

func (w *world) erase(q api.EraseRows) api.Erasure {
	w.t.Helper()
	q.Where = "k = '" + erasedKey + "'"
	q.Grace = 1
	out, err := w.b.Maintainer.Erase(w.t.Context(), "default.s", q)
	if err != nil {
		w.t.Fatal(err)
	}
	return out
}

// TestErase: rows are gone from every branch, from every version, from the hot log
// and from every file of the data directory; all else is as it was, also after a
// restart, and the oracle tells erased rows from lost ones.
func TestErase(t *testing.T) {
	t.Parallel()
	w := newWorld(t, catalog.Settings{Partitions: 2, HotRetention: time.Hour})
	w.put("main", 0, 1, 2)
	w.putErased("main", 100, 101)
	w.archiveOn("main")
	tagged := w.tableOn("main")
	first, _ := tagged.Head()
	if _, err := w.node.directory.CreateTag(t.Context(), "s", "main", "first", first.ID); err != nil {
		t.Fatal(err)
	}
	w.fork("exp", branch.From{})
	w.fork("gone", branch.From{})
	w.putErased("gone", 300)
	w.archiveOn("gone")
	if err := w.node.directory.DeleteBranch(t.Context(), "s", "gone", branch.DeleteBranch{}); err != nil {
		t.Fatal(err)
	}
	w.put("main", 3, 4)
	w.putErased("main", 102)
	w.put("exp", 10, 11)
	w.putErased("exp", 200)
	w.archiveOn("exp")
	w.putErased("exp", 201)
	w.put("exp", 12)
	logs, files := 0, 0
	for _, name := range w.holding() {
		if strings.Contains(name, logDir+string(filepath.Separator)) {
			logs++
		} else {
			files++
		}
	}
	if logs == 0 || files < 3 {
		t.Fatalf("only %v hold the key", w.holding())
	}

	planned := w.erase(api.EraseRows{DryRun: true})
	if len(w.holding()) == 0 {
		t.Fatal("a dry run erased rows")
	}
	out := w.erase(api.EraseRows{})
	if names := w.holding(); len(names) > 0 {
		t.Fatalf("%v still hold the key; %+v", names, out)
	}
	rows := map[string]int64{}
	for _, b := range out.Branches {
		rows[b.Branch] = b.Rows
	}
	if want := map[string]int64{"main": 3, "exp": 4}; cmp.Diff(want, rows) != "" || len(out.LogDamaged) > 0 || out.RemainingFiles > 0 {
		t.Errorf("erased %+v", out)
	}
	for i, b := range planned.Branches {
		if got := out.Branches[i]; got.Rows != b.Rows || got.Matched != b.Matched || got.Snapshots != b.Snapshots {
			t.Errorf("planned %+v, did %+v", b, got)
		}
	}
	look := func() {
		t.Helper()
		if got := w.cold("main"); cmp.Diff([]int64{0, 1, 2, 3, 4}, got) != "" {
			t.Errorf("main has %v", got)
		}
		if got := w.cold("exp"); cmp.Diff([]int64{0, 1, 2, 10, 11, 12}, got) != "" {
			t.Errorf("exp has %v", got)
		}
		if got, ok := w.tableOn("main").Snapshot(first.ID); !ok || got.TotalRows != 3 {
			t.Errorf("the tagged version is %+v", got)
		}
		w.wantSound("main")
		w.wantSound("exp")
	}
	look()
	w.restart()
	if names := w.holding(); len(names) > 0 {
		t.Errorf("after a restart, %v hold the key", names)
	}
	look()
	// Life goes on, behind the offsets of before.
	w.putErased("main", 5)
	w.put("main", 6)
	w.wantCold("main", 0, 1, 2, 3, 4, 5, 6)
	w.wantSound("main")
	tasks, err := w.b.Maintainer.Tasks(t.Context(), "s", "main")
	if err != nil || len(tasks) != 0 {
		t.Errorf("tasks of the new process: %+v, %v", tasks, err)
	}
	w.erase(api.EraseRows{})
	tasks, err = w.b.Maintainer.Tasks(t.Context(), "s", "main")
	if err != nil || len(tasks) != 1 || tasks[0].Kind != "erase" || tasks[0].State != "done" || !tasks[0].Requested || tasks[0].Ended.IsZero() {
		t.Errorf("tasks %+v, %v", tasks, err)
	}
}

// TestEraseRefuses: what cannot be understood changes nothing.
func TestEraseRefuses(t *testing.T) {
	t.Parallel()
	w := newWorld(t, catalog.Settings{})
	for where, want := range map[string]error{
		"": record.ErrInvalid, "k =": record.ErrInvalid, "nosuch = 1": record.ErrInvalid, "n = 'text'": record.ErrInvalid,
	} {
		if _, err := w.b.Maintainer.Erase(t.Context(), "default.s", api.EraseRows{Where: where}); !errors.Is(err, want) {
			t.Errorf("where %q: %v", where, err)
		}
	}
	if _, err := w.b.Maintainer.Erase(t.Context(), "default.nosuch", api.EraseRows{Where: "n = 1"}); !errors.Is(err, record.ErrNotFound) {
		t.Errorf("no such stream: %v", err)
	}
}

// TestEraseFromDatasets: datasets without a stream lose rows like those of streams.
func TestEraseFromDatasets(t *testing.T) {
	t.Parallel()
	w := newLake(t)
	for i := range int64(4) {
		if _, err := w.node.transactions.Once(t.Context(), lake, transaction.Begin{Type: catalog.TransactionAppend}, rowsUpload("", i, i+10)); err != nil {
			t.Fatal(err)
		}
	}
	out, err := w.b.Maintainer.Erase(t.Context(), "d", api.EraseRows{Where: "n IN (2, 3, 13)", Grace: 1})
	if err != nil || len(out.Branches) != 1 || out.Branches[0].Rows != 3 || out.DeletedFiles == 0 {
		t.Errorf("%+v, %v", out, err)
	}
	w.wantLake(0, 1, 10, 11, 12)
	if again, err := w.b.Maintainer.Erase(t.Context(), "d", api.EraseRows{Where: "n = 2", Grace: 1}); err != nil || again.Branches[0].Rows != 0 {
		t.Errorf("%+v, %v", again, err)
	}
}
