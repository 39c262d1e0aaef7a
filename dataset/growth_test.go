package dataset_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/apache/iceberg-go"
	"github.com/apache/iceberg-go/table"
	"github.com/google/uuid"

	"github.com/thermocline/thermocline/dataset"
	"github.com/thermocline/thermocline/record"
)

// TestHistoryStaysBounded makes many small commits: metadata, manifest list
// and the number of objects stay bounded, and every file stays in the table.
func TestHistoryStaysBounded(t *testing.T) {
	t.Parallel()
	commits, snapshots := 2000, 40
	if raced {
		commits = 300
	}
	e := newMemEnv(t)
	e.d = dataset.New(e.store, e.pointers, dataset.Options{MaxSnapshots: snapshots})
	table := e.create(numbers())
	b := numberBatch(numbers(), 0, 0, 1)
	defer b.Release()
	begin := time.Now()
	for i := range record.Offset(commits) {
		f := e.file(table, numbers(), fileName(0, i, i+1), b)
		m := marker(i + 1)
		m.CommitID = fmt.Sprint("c", i)
		table = e.commit(dataset.Commit{Add: []dataset.DataFile{f}, Marker: m})
	}
	took := time.Since(begin)

	metadata, largest := 0, int64(0)
	for info, err := range e.store.List(t.Context(), e.id+"/metadata/") {
		if err != nil {
			t.Fatal(err)
		}
		if strings.HasSuffix(info.Key, ".metadata.json") {
			metadata++
			largest = max(largest, info.Size)
		}
	}
	t.Logf("%d commits of one file each: %v each, %d metadata files kept, the largest %d bytes", commits, took/time.Duration(commits), metadata, largest)
	if metadata > 25 || largest > int64(snapshots)*3000 {
		t.Errorf("%d metadata files, the largest %d bytes", metadata, largest)
	}
	table = e.load()
	if n := len(table.Snapshots()); n != snapshots {
		t.Errorf("%d snapshots, want %d", n, snapshots)
	}
	manifests := listManifests(t, e, table)
	if len(manifests) > 60 {
		t.Errorf("%d manifests for %d files", len(manifests), commits)
	}
	t.Logf("%d manifests", len(manifests))
	head, _ := table.Head()
	if head.TotalFiles != int64(commits) || head.Sequence != int64(commits) {
		t.Errorf("head %+v", head)
	}
	n := int64(0)
	for f, err := range table.Files(t.Context(), 0) {
		if err != nil {
			t.Fatal(err)
		}
		if n++; f.Sequence != n || f.Ranges[0].Start != record.Offset(n-1) {
			t.Fatalf("file %d is %+v", n, f)
		}
	}
	if n != int64(commits) {
		t.Errorf("%d files", n)
	}
	if m, err := table.Marker(); err != nil || !m.Offsets.Equal(record.Offsets{record.Offset(commits)}) {
		t.Errorf("marker %+v, %v", m, err)
	}
}

func listManifests(t *testing.T, e *env, table *dataset.Table) []iceberg.ManifestFile {
	t.Helper()
	manifests, err := table.Metadata().CurrentSnapshot().Manifests(dataset.IO(t.Context(), e.store))
	if err != nil {
		t.Fatal(err)
	}
	return manifests
}

// TestMergedManifestsKeepSequenceNumbers: entries that move to a merged
// manifest are EXISTING, with the numbers of the commits that added them.
func TestMergedManifestsKeepSequenceNumbers(t *testing.T) {
	t.Parallel()
	e := newMemEnv(t)
	e.create(numbers())
	var added []int64
	for i := range record.Offset(40) {
		table := e.addNumbers(i, i+1)
		head, _ := table.Head()
		added = append(added, head.ID)
	}
	table := e.load()
	existing := 0
	for _, m := range listManifests(t, e, table) {
		for entry, err := range m.Entries(dataset.IO(t.Context(), e.store), false) {
			if err != nil {
				t.Fatal(err)
			}
			seq := entry.SequenceNum()
			if entry.Status() == iceberg.EntryStatusEXISTING {
				existing++
			}
			if entry.SnapshotID() != added[seq-1] || entry.FileSequenceNum() == nil || *entry.FileSequenceNum() != seq {
				t.Errorf("entry of sequence %d: snapshot %d, file sequence %v", seq, entry.SnapshotID(), entry.FileSequenceNum())
			}
			if want := fmt.Sprintf("-p0.%d.%d-", seq-1, seq); !strings.Contains(entry.DataFile().FilePath(), want) {
				t.Errorf("sequence %d is %s", seq, entry.DataFile().FilePath())
			}
		}
	}
	if existing < 32 {
		t.Errorf("%d entries were merged", existing)
	}
	e.wantOffsets(table, 40)
}

// TestExpiryKeepsNamedSnapshots: what a tag of another engine names stays.
func TestExpiryKeepsNamedSnapshots(t *testing.T) {
	t.Parallel()
	e := newMemEnv(t)
	e.d = dataset.New(e.store, e.pointers, dataset.Options{MaxSnapshots: 10})
	e.create(numbers())
	e.addNumbers(0, 1)
	tagged := e.addNumbers(1, 2)
	head, _ := tagged.Head()
	tag := table.NewSetSnapshotRefUpdate("keep", head.ID, table.TagRef, 0, 0, 0)
	if _, _, err := (foreign{e}).CommitTable(t.Context(), nil, nil, []table.Update{tag}); err != nil {
		t.Fatal(err)
	}
	for i := range record.Offset(30) {
		e.addNumbers(i+2, i+3)
	}
	now := e.load()
	if n := len(now.Snapshots()); n != 11 {
		t.Errorf("%d snapshots are left, want 10 and the tagged one", n)
	}
	if rows := e.rows(now, dataset.ScanOptions{SnapshotID: head.ID}); len(rows) != 2 {
		t.Errorf("%d rows under the tag", len(rows))
	}
	e.wantOffsets(now, 32)
	// A reader that holds an older table is not disturbed.
	e.wantOffsets(tagged, 2)
}

func BenchmarkCommit(b *testing.B) {
	for _, history := range []int{10, 1000} {
		b.Run(fmt.Sprintf("history=%d", history), func(b *testing.B) {
			e := newMemEnv(b)
			table := e.create(numbers())
			batch := numberBatch(numbers(), 0, 0, 1)
			defer batch.Release()
			f := e.file(table, numbers(), fileName(0, 0, 1), batch)
			commit := func(i int) {
				m := marker(record.Offset(i + 1))
				m.CommitID = uuid.NewString()
				e.commit(dataset.Commit{Add: []dataset.DataFile{f}, Marker: m})
			}
			for i := range history {
				commit(i)
			}
			for i := 0; b.Loop(); i++ {
				commit(history + i)
			}
		})
	}
}
