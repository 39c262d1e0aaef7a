package verify_test

import (
	"bytes"
	"cmp"
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	gocmp "github.com/google/go-cmp/cmp"

	"github.com/thermocline/thermocline/catalog"
	"github.com/thermocline/thermocline/dataset"
	"github.com/thermocline/thermocline/hotbuffer"
	"github.com/thermocline/thermocline/hotbuffer/disk"
	"github.com/thermocline/thermocline/record"
	"github.com/thermocline/thermocline/verify"
)

// plant is one kind of damage, and what a check must say of it: no less, and no
// more.
type plant struct {
	name, stream string
	damage       func(e *env)
	want         []string
	// unlabelled: check without the producers' columns, whose rows are lost with
	// the file.
	unlabelled bool
	place      string // a part of the first finding's place
}

func TestEveryDamageIsFound(t *testing.T) {
	for _, p := range slices.Concat(rowPlants, filePlants, logPlants, catalogPlants) {
		t.Run(p.name, func(t *testing.T) {
			e := newEnv(t)
			p.damage(e)
			q := labelled
			if p.unlabelled {
				q = verify.Request{}
			}
			out := e.wanted(p.stream, q, p.want...)
			if len(out.findings) > 0 && !strings.Contains(out.findings[0].Place, p.place) {
				t.Errorf("the place %q does not name %q", out.findings[0].Place, p.place)
			}
			// Damage stays where it is, also in the log that all share.
			for _, s := range streams {
				if s != p.stream && (s == "reset" || p.place == "segment") {
					e.want(s)
				}
			}
		})
	}
}

// at is the index of a row.
func at(rows []row, partition int32, offset int64) int {
	return slices.IndexFunc(rows, func(r row) bool { return r.partition == partition && r.offset == offset })
}

// rewritten replaces the stream's files by one with changed rows.
func rewritten(stream string, change func(rows []row) []row) func(e *env) {
	return func(e *env) { e.rewrite(stream, dataset.FileName{}, change, nil) }
}

// marked replaces the stream's marker.
func marked(stream string, change func(m *dataset.Marker)) func(e *env) {
	return func(e *env) {
		e.rewrite(stream, dataset.FileName{}, func(rows []row) []row { return rows }, change)
	}
}

var rowPlants = []plant{
	{name: "rewritten as it was", stream: "kept", damage: rewritten("kept", func(rows []row) []row { return rows })},
	{name: "row changed", stream: "kept", damage: rewritten("kept", func(rows []row) []row {
		rows[at(rows, 0, 7)].n++
		return rows
	}), want: []string{"MISMATCH v1 p0 [7,8)"}, place: "/data/"},
	{name: "time changed", stream: "kept", damage: rewritten("kept", func(rows []row) []row {
		rows[0].micros -= 1000
		return rows
	}), want: []string{"MISMATCH v1 p0 [0,1)"}},
	{name: "row removed", stream: "moved", damage: rewritten("moved", func(rows []row) []row {
		i := at(rows, 0, 7)
		return slices.Delete(rows, i, i+1)
	}), want: []string{"GAP v1 p0 [7,8)", "LOST v1"}, place: "/data/"},
	{name: "last rows removed", stream: "moved", damage: rewritten("moved", func(rows []row) []row {
		return slices.DeleteFunc(rows, func(r row) bool { return r.partition == 1 && r.offset >= 13 })
	}), want: []string{"GAP v1 p1 [13,16)", "LOST v1", "LOST v1", "LOST v1"}, place: "/metadata/"},
	{name: "all rows removed", stream: "moved", unlabelled: true, damage: rewritten("moved", func([]row) []row { return nil }),
		want: []string{"GAP v1 p0 [0,48)", "GAP v1 p1 [0,16)"}},
	{name: "row doubled", stream: "moved", damage: rewritten("moved", func(rows []row) []row {
		i := at(rows, 0, 7)
		return slices.Insert(rows, i, rows[i])
	}), want: []string{"DUPLICATE v1 p0 [7,8)"}},
	{name: "file doubled", stream: "moved", damage: rewritten("moved", func(rows []row) []row { return append(rows, rows...) }),
		want: []string{"DUPLICATE v1 p0 [0,48)", "DUPLICATE v1 p1 [0,16)"}},
	{name: "row under another's offset", stream: "moved", unlabelled: true, damage: rewritten("moved", func(rows []row) []row {
		rows[at(rows, 1, 5)].offset = 4
		return rows
	}), want: []string{"DUPLICATE v1 p1 [4,5)", "GAP v1 p1 [5,6)"}},
	// In a file of an archive's name; engines may bring rows in any order.
	{name: "rows swapped", stream: "moved", unlabelled: true, damage: func(e *env) {
		e.rewrite("moved", dataset.FileName{View: 1, Epoch: 1}, func(rows []row) []row {
			i, j := at(rows, 0, 3), at(rows, 0, 4)
			rows[i], rows[j] = rows[j], rows[i]
			return rows
		}, nil)
	}, want: []string{"ORDER v1 p0 [3,4)"}},
	{name: "partitions swapped", stream: "kept", unlabelled: true, damage: func(e *env) {
		e.rewrite("kept", dataset.FileName{View: 1, Epoch: 1}, func(rows []row) []row {
			// The same rows, partition by partition: each in order, all together not.
			slices.SortStableFunc(rows, func(a, b row) int { return cmp.Compare(b.partition, a.partition) })
			return rows
		}, nil)
	}, want: []string{"ORDER v1 p0 [0,1)"}},
	{name: "row of another view", stream: "kept", unlabelled: true, damage: func(e *env) {
		e.rewrite("kept", dataset.FileName{View: 1, Epoch: 1}, func(rows []row) []row {
			rows[at(rows, 0, 7)].view = 7
			return rows
		}, nil)
	}, want: []string{"WRONG_VIEW v7 p0 [7,8)", "GAP v1 p0 [7,8)"}},
	{name: "guest doubled", stream: "kept", damage: func(e *env) {
		guests := []row{{view: 7, offset: 3, k: "a", producer: "p"}, {view: 7, offset: 4, k: "a", producer: "p"}, {k: "a", producer: "p"}, {k: "a", producer: "p"}}
		e.join("kept", guests...)
		e.want("kept") // guests are no damage
		e.join("kept", row{view: 7, partition: 1, offset: 4, k: "a", producer: "p"}, row{view: 7, offset: 2, k: "a", producer: "p"})
		e.want("kept")
		e.join("kept", guests[1])
	}, want: []string{"DUPLICATE v7 p0 [4,5)"}},
	{name: "row of a partition that is not", stream: "moved", unlabelled: true, damage: rewritten("moved", func(rows []row) []row {
		rows[at(rows, 1, 15)].partition = 9
		return rows
	}), want: []string{"BOUNDS v1 p9 [15,16)", "GAP v1 p1 [15,16)"}},
	{name: "rows that the name denies", stream: "moved", damage: func(e *env) {
		e.rewrite("moved", dataset.FileName{View: 1, Epoch: 1, Ranges: []dataset.PartRange{
			{Partition: 0, Range: record.Range{Start: 0, End: 40}}, {Partition: 1, Range: record.Range{Start: 2, End: 16}},
		}}, func(rows []row) []row { return rows }, nil)
	}, want: []string{"BOUNDS v1 p0 [40,48)", "BOUNDS v1 p1 [0,2)"}},
	{name: "rows beyond the marker", stream: "kept", damage: marked("kept", func(m *dataset.Marker) { m.Offsets = record.Offsets{30, 10} }),
		want: []string{"UNARCHIVED v1 p0 [30,48)", "UNARCHIVED v1 p1 [10,16)"}},
	{name: "marker behind the hot rows", stream: "moved", unlabelled: true, damage: marked("moved", func(m *dataset.Marker) { m.Offsets = record.Offsets{48, 12} }),
		want: []string{"UNARCHIVED v1 p1 [12,16)", "GAP v1 p1 [12,16)"}},
	{name: "marker beyond the end", stream: "kept", unlabelled: true, damage: marked("kept", func(m *dataset.Marker) { m.Offsets = record.Offsets{70, 16} }),
		want: []string{"MARKER v1 p0 [60,70)", "GAP v1 p0 [48,70)"}, place: "/metadata/"},
	{name: "marker of an epoch to come", stream: "kept", damage: marked("kept", func(m *dataset.Marker) { m.Epoch = 99 }), want: []string{"MARKER v1"}},
	{name: "marker of another cluster", stream: "kept", damage: marked("kept", func(m *dataset.Marker) { m.Cluster = "elsewhere" }), want: []string{"MARKER v1"}},
	{name: "marker of an unknown view", stream: "kept", damage: marked("kept", func(m *dataset.Marker) { m.View, m.ViewNumber = 99, 9 }), want: []string{"MARKER v9"}},
	{name: "sequence twice", stream: "moved", damage: rewritten("moved", func(rows []row) []row {
		rows[at(rows, 0, 4)].seq = 2
		return rows
	}), want: []string{"DUPLICATED v1 p0 [4,5)", "LOST v1"}},
	{name: "sequences back", stream: "moved", damage: rewritten("moved", func(rows []row) []row {
		i, j := at(rows, 0, 3), at(rows, 0, 4)
		rows[i].seq, rows[j].seq = rows[j].seq, rows[i].seq
		return rows
	}), want: []string{"DISORDERED v1 p0 [4,5)"}},
}

func flip(e *env, path string, at int) {
	e.t.Helper()
	b, err := os.ReadFile(path)
	e.must(err)
	if at < 0 {
		at += len(b)
	}
	b[at] ^= 0x10
	e.must(os.WriteFile(path, b, 0o600))
}

// head is the metadata file that a stream's table stands at.
func head(e *env, stream string) (path string) {
	e.t.Helper()
	e.with(stream, func(c *catalog.Catalog, _ *dataset.Datasets, b catalog.Branch) {
		location, err := c.TablePointer(e.t.Context(), b.TableUUID)
		e.must(err)
		path = strings.TrimPrefix(location, "file://")
	})
	return path
}

// snapshots are the manifest lists of a stream, oldest first.
func snapshots(e *env, stream string) (lists []string) {
	e.t.Helper()
	text, err := os.ReadFile(head(e, stream))
	e.must(err)
	var m struct {
		Snapshots []struct {
			List     string `json:"manifest-list"`
			Sequence int    `json:"sequence-number"`
		} `json:"snapshots"`
	}
	e.must(json.Unmarshal(text, &m))
	slices.SortFunc(m.Snapshots, func(a, b struct {
		List     string `json:"manifest-list"`
		Sequence int    `json:"sequence-number"`
	}) int {
		return a.Sequence - b.Sequence
	})
	for _, s := range m.Snapshots {
		lists = append(lists, strings.TrimPrefix(s.List, "file://"))
	}
	return lists
}

// manifest is a manifest of a stream: files with "-m0.avro".
func manifest(e *env, stream string) string {
	e.t.Helper()
	for _, f := range e.files(stream, "metadata") {
		if strings.HasSuffix(f, "-m0.avro") {
			return f
		}
	}
	e.t.Fatal("no manifest")
	return ""
}

// dataFile is the data file of a stream that begins at an offset of partition 0.
func dataFile(e *env, stream, from string) string {
	e.t.Helper()
	for _, f := range e.files(stream, "data") {
		if strings.Contains(f, "-p0."+from+".") {
			return f
		}
	}
	e.t.Fatalf("no data file of %s from %s", stream, from)
	return ""
}

var filePlants = []plant{
	{name: "data file flipped", stream: "kept", unlabelled: true, damage: func(e *env) { flip(e, dataFile(e, "kept", "30"), 200) }, want: []string{"DAMAGED v1"}, place: "-p0.30."},
	{name: "data file's footer flipped", stream: "kept", unlabelled: true, damage: func(e *env) { flip(e, dataFile(e, "kept", "0"), -20) }, want: []string{"DAMAGED v1"}, place: "-p0.0."},
	{name: "data file truncated", stream: "moved", unlabelled: true, damage: func(e *env) { e.must(os.Truncate(dataFile(e, "moved", "0"), 300)) }, want: []string{"DAMAGED v1"}},
	{name: "data file deleted", stream: "moved", unlabelled: true, damage: func(e *env) { e.must(os.Remove(dataFile(e, "moved", "0"))) }, want: []string{"MISSING v1"}, place: "-p0.0."},
	{name: "data file in another's place", stream: "kept", unlabelled: true, damage: func(e *env) {
		b, err := os.ReadFile(dataFile(e, "kept", "0"))
		e.must(err)
		e.must(os.WriteFile(dataFile(e, "kept", "30"), b, 0o600))
	}, want: []string{"DAMAGED v1"}},
	{name: "data file of a former version deleted", stream: "reset", damage: func(e *env) { e.must(os.Remove(dataFile(e, "reset", "18"))) }, want: []string{"MISSING"}},
	{name: "head manifest list flipped", stream: "kept", unlabelled: true, damage: func(e *env) { l := snapshots(e, "kept"); flip(e, l[len(l)-1], 100) }, want: []string{"METADATA"}, place: "/snap-"},
	{name: "head manifest list deleted", stream: "moved", unlabelled: true, damage: func(e *env) { l := snapshots(e, "moved"); e.must(os.Remove(l[len(l)-1])) }, want: []string{"MISSING"}, place: "/snap-"},
	{name: "former manifest list deleted", stream: "kept", damage: func(e *env) { e.must(os.Remove(snapshots(e, "kept")[0])) }, want: []string{"MISSING"}, place: "/snap-"},
	{name: "manifest flipped", stream: "moved", unlabelled: true, damage: func(e *env) { flip(e, manifest(e, "moved"), -30) }, want: []string{"METADATA"}, place: "-m0.avro"},
	{name: "manifest truncated", stream: "kept", unlabelled: true, damage: func(e *env) { e.must(os.Truncate(manifest(e, "kept"), 900)) }, want: []string{"METADATA"}, place: "-m0.avro"},
	{name: "manifest deleted", stream: "kept", unlabelled: true, damage: func(e *env) { e.must(os.Remove(manifest(e, "kept"))) }, want: []string{"MISSING"}, place: "-m0.avro"},
	{name: "table metadata flipped", stream: "kept", unlabelled: true, damage: func(e *env) { flip(e, head(e, "kept"), 77) }, want: []string{"METADATA"}, place: ".metadata.json"},
	{name: "table metadata truncated", stream: "moved", unlabelled: true, damage: func(e *env) { e.must(os.Truncate(head(e, "moved"), 500)) }, want: []string{"METADATA"}, place: ".metadata.json"},
	{name: "table metadata deleted", stream: "moved", unlabelled: true, damage: func(e *env) { e.must(os.Remove(head(e, "moved"))) }, want: []string{"MISSING"}, place: ".metadata.json"},
	{name: "stray file", stream: "kept", damage: func(e *env) { stray(e, "kept", time.Minute) }, want: []string{"ORPHAN notice"}, place: "/stray.parquet"},
	{name: "old stray file", stream: "kept", damage: func(e *env) { stray(e, "kept", 2*time.Hour) }, want: []string{"ORPHAN"}, place: "/stray.parquet"},
}

func stray(e *env, stream string, age time.Duration) {
	e.t.Helper()
	path := filepath.Join(filepath.Dir(e.files(stream, "data")[0]), "stray.parquet")
	e.must(os.WriteFile(path, []byte("stray"), 0o600))
	old := time.Now().Add(-age)
	e.must(os.Chtimes(path, old, old))
}

// viewOf is the id of a stream's active view.
func viewOf(e *env, stream string) (id record.ViewID) {
	e.t.Helper()
	e.with(stream, func(_ *catalog.Catalog, _ *dataset.Datasets, b catalog.Branch) { id = b.View.ID })
	return id
}

// flipRow flips a bit of a row in the frame that a view's rows from an offset are in.
func flipRow(stream string, p record.Partition, o record.Offset) func(e *env) {
	return func(e *env) {
		e.t.Helper()
		view := viewOf(e, stream)
		var want []byte
		e.log(func(l *disk.Log) {
			b, err := l.Read(e.t.Context(), view, p, o, 1)
			e.must(err)
			want = slices.Clone(b[0].Bytes())
		})
		list, err := filepath.Glob(filepath.Join(e.dir, "log", "*.seg"))
		e.must(err)
		for _, path := range list {
			b, err := os.ReadFile(path)
			e.must(err)
			if at := bytes.Index(b, want); at >= 0 {
				b[at+len(want)-1] ^= 0x10
				e.must(os.WriteFile(path, b, 0o600))
				return
			}
		}
		e.t.Fatal("the batch is in no segment")
	}
}

// log gives access to the hot log with all live views open.
func (e *env) log(do func(l *disk.Log)) {
	e.t.Helper()
	e.close()
	l, err := disk.Open(filepath.Join(e.dir, "log"), disk.Options{SegmentBytes: 64 << 10, Logger: quiet})
	e.must(err)
	defer func() { e.must(l.Close()) }()
	for _, v := range l.Views() {
		e.must(l.Open(e.t.Context(), v, hotbuffer.Settings{Type: hotbuffer.LowLatency, Partitions: 2}))
	}
	do(l)
}

// appended puts a row into the log that no writer would.
func appended(stream, value string) func(e *env) {
	return func(e *env) {
		view := viewOf(e, stream)
		e.log(func(l *disk.Log) {
			var rows record.Rows
			rows.Append(nil, []byte(value))
			_, err := l.Append(e.t.Context(), view, hotbuffer.Append{Parts: []hotbuffer.Part{{Partition: 1, Rows: &rows}}})
			e.must(err)
		})
	}
}

var logPlants = []plant{
	{name: "hot row flipped", stream: "fresh", unlabelled: true, damage: flipRow("fresh", 0, 0), want: []string{"DAMAGED v1 p0 [0,6)"}, place: "segment"},
	{name: "last hot row flipped", stream: "moved", unlabelled: true, damage: flipRow("moved", 1, 19), want: []string{"DAMAGED v1 p1 [18,20)"}, place: "segment"},
	{name: "archived hot row flipped", stream: "kept", damage: flipRow("kept", 0, 7), want: []string{"DAMAGED v1 p0 [6,12)"}, place: "segment"},
	{name: "row without a header", stream: "kept", damage: appended("kept", "junk"), want: []string{"UNDECODABLE v1 p1 [20,21)"}, place: "hot log"},
	{name: "row of an unknown schema", stream: "kept", damage: appended("kept", "\x00\x00\x00\x00\x63rest"), want: []string{"UNDECODABLE v1 p1 [20,21)"}},
	{name: "row cut short", stream: "fresh", damage: appended("fresh", "\x00\x00\x00\x00\x05\x02"), want: []string{"UNDECODABLE v1 p1 [4,5)"}},
	{name: "view dropped", stream: "fresh", damage: func(e *env) {
		view := viewOf(e, "fresh")
		e.log(func(l *disk.Log) { e.must(l.Drop(e.t.Context(), view)) })
	}, want: []string{"VIEW_STATE v1"}},
	{name: "released beyond the archive", stream: "kept", unlabelled: true, damage: func(e *env) {
		view := viewOf(e, "kept")
		e.log(func(l *disk.Log) { e.must(l.Release(e.t.Context(), view, record.Offsets{50, 16})) })
	}, want: []string{"GAP v1 p0 [48,50)"}, place: "hot log"},
}

// changing runs a statement that must change one row; $v is the stream's view.
func changing(stream, query string) func(e *env) {
	return func(e *env) {
		e.t.Helper()
		e.changed(strings.ReplaceAll(query, "$v", strings.TrimPrefix(viewOf(e, stream).String(), "v")))
	}
}

// subscribed makes a subscriber and runs a statement on it.
func subscribed(query string) func(e *env) {
	return func(e *env) {
		e.t.Helper()
		e.with("kept", func(c *catalog.Catalog, _ *dataset.Datasets, b catalog.Branch) {
			cp, err := c.LatestCheckpoint(e.t.Context(), b.View.ID)
			e.must(err)
			for _, name := range []string{"good", "g"} {
				_, err = c.CreateSubscriber(e.t.Context(), catalog.Subscriber{Branch: b.ID, Name: name, Consistency: catalog.ExactlyOnce, View: b.View.ID, Next: cp.Cut, Checkpoint: cp.Number})
				e.must(err)
			}
		})
		if query != "" {
			e.changed("UPDATE subscribers SET " + query + " WHERE name = 'g'")
		}
	}
}

var catalogPlants = []plant{
	{name: "checkpoint later than its rows", stream: "kept", damage: changing("kept", "UPDATE checkpoints SET timestamp_ms = timestamp_ms - 100000 WHERE view_id = $v AND number = 1"),
		want: []string{"CHECKPOINT v1 p0 [0,30)", "CHECKPOINT v1 p1 [0,10)"}},
	{name: "checkpoint through a commit", stream: "kept", damage: changing("kept", "UPDATE checkpoints SET cut = '[30,9]' WHERE view_id = $v AND number = 1"),
		want: []string{"CHECKPOINT v1 p1 [9,10)"}},
	{name: "checkpoint ahead in one partition", stream: "kept", damage: changing("kept", "UPDATE checkpoints SET cut = '[30,12]' WHERE view_id = $v AND number = 1"),
		want: []string{"CHECKPOINT v1 p1 [10,12)"}},
	{name: "checkpoint before its predecessor", stream: "moved", damage: changing("moved", "UPDATE checkpoints SET cut = '[29,10]', timestamp_ms = timestamp_ms WHERE view_id = $v AND number = 2"),
		want: []string{"CHECKPOINT v1"}, place: "checkpoint 2"},
	{name: "checkpoint beyond the end", stream: "kept", damage: changing("kept", "UPDATE checkpoints SET cut = '[60,20]', timestamp_ms = timestamp_ms + 100000 WHERE view_id = $v AND number = 2"),
		want: nil},
	{name: "checkpoint of rows that never were", stream: "kept", damage: changing("kept", "UPDATE checkpoints SET cut = '[60,25]', timestamp_ms = timestamp_ms + 100000 WHERE view_id = $v AND number = 2"),
		want: []string{"CHECKPOINT v1 p1 [20,25)"}, place: "checkpoint 2"},
	{name: "checkpoint deleted", stream: "kept", damage: changing("kept", "DELETE FROM checkpoints WHERE view_id = $v AND number = 2"), want: []string{"CHECKPOINT v1"}},
	{name: "checkpoint garbled", stream: "kept", damage: changing("kept", "UPDATE checkpoints SET cut = '[-1]' WHERE view_id = $v AND number = 1"), want: []string{"CHECKPOINT v1"}},
	{name: "lease gone back", stream: "moved", damage: changing("moved", "UPDATE leases SET epoch = 0 WHERE view_id = $v"), want: []string{"MARKER v1"}},
	{name: "retired too early", stream: "drains", damage: changing("drains", "UPDATE views SET state = 'RETIRED' WHERE id = $v - 1"), want: []string{"VIEW_STATE v1", "VIEW_STATE notice v1"}},
	{name: "retired before its last rows", stream: "reset", damage: changing("reset", "UPDATE checkpoints SET cut = '[30,8]' WHERE view_id = $v - 1 AND number = 2"), want: []string{"VIEW_STATE v1"}},
	{name: "schema garbled", stream: "fresh", damage: func(e *env) {
		e.with("fresh", func(_ *catalog.Catalog, _ *dataset.Datasets, b catalog.Branch) {
			e.changed("UPDATE schemas SET body = 'x' WHERE id = $1", b.SchemaID)
		})
	}, want: []string{"VIEW_STATE v1"}},
	{name: "table pointer gone", stream: "kept", unlabelled: true, damage: func(e *env) {
		e.with("kept", func(_ *catalog.Catalog, _ *dataset.Datasets, b catalog.Branch) {
			e.changed("DELETE FROM table_pointers WHERE table_uuid = $1", b.TableUUID)
		})
	}, want: []string{"MISSING"}},
	{name: "table pointer of another table", stream: "kept", unlabelled: true, damage: func(e *env) {
		e.with("moved", func(_ *catalog.Catalog, _ *dataset.Datasets, from catalog.Branch) {
			e.with("kept", func(_ *catalog.Catalog, _ *dataset.Datasets, to catalog.Branch) {
				e.changed("UPDATE table_pointers SET location = (SELECT location FROM table_pointers WHERE table_uuid = $1) WHERE table_uuid = $2", from.TableUUID, to.TableUUID)
			})
		})
	}, want: []string{"METADATA"}},
	{name: "sound subscribers", stream: "kept", damage: subscribed("")},
	{name: "subscriber beyond the end", stream: "kept", damage: subscribed("next = '[61,16]'"), want: []string{"OUT_OF_RANGE v1 p0 [60,61)"}, place: "subscriber g"},
	{name: "subscriber in no view", stream: "kept", damage: subscribed("view_id = 99"), want: []string{"OUT_OF_RANGE"}},
	{name: "subscriber in another stream's view", stream: "kept", damage: subscribed("view_id = view_id + 1"), want: []string{"OUT_OF_RANGE"}},
	{name: "subscriber at no checkpoint", stream: "kept", damage: subscribed("checkpoint = 3"), want: []string{"OUT_OF_RANGE v1"}},
	{name: "subscriber behind its checkpoint", stream: "kept", damage: subscribed("next = '[47,16]'"), want: []string{"OUT_OF_RANGE v1"}},
	{name: "subscriber garbled", stream: "kept", damage: subscribed("next = 'x'"), want: []string{"OUT_OF_RANGE"}},
}

// TestCommonDamage: what no branch has.
func TestCommonDamage(t *testing.T) {
	all := func(e *env) (found []string, branches int) {
		e.must(e.open().All(e.t.Context(), labelled, func(x verify.Event) error {
			switch {
			case x.Finding != nil:
				found = append(found, string(x.Finding.Code)+" "+string(x.Finding.Severity)+" "+x.Stream)
			case x.Summary != nil:
				branches++
			}
			return nil
		}))
		return found, branches
	}
	folder := func(e *env, name string, age time.Duration) {
		dir := filepath.Join(e.dir, "warehouse", name, "data")
		e.must(os.MkdirAll(dir, 0o750))
		path := filepath.Join(dir, "x.parquet")
		e.must(os.WriteFile(path, []byte("x"), 0o600))
		old := time.Now().Add(-age)
		e.must(os.Chtimes(path, old, old))
	}
	for _, p := range []struct {
		name   string
		damage func(e *env)
		want   []string
	}{
		{"sound", func(*env) {}, nil},
		{"folder", func(e *env) { folder(e, "0c7a0000-0000-4000-8000-000000000000", 2*time.Hour) }, []string{"ORPHAN FAILURE "}},
		{"young folder", func(e *env) { folder(e, "0c7a0000-0000-4000-8000-000000000000", 0) }, []string{"ORPHAN NOTICE "}},
		{"deleted stream", func(e *env) {
			e.with("kept", func(c *catalog.Catalog, _ *dataset.Datasets, b catalog.Branch) {
				_, err := c.DeleteStream(e.t.Context(), b.Stream, time.Now().Add(time.Hour))
				e.must(err)
			})
		}, []string{"VIEW_STATE NOTICE "}},
		{"view of another catalog", func(e *env) {
			e.log(func(l *disk.Log) {
				e.must(l.Open(e.t.Context(), 77, hotbuffer.Settings{Type: hotbuffer.LowLatency, Partitions: 1}))
				var rows record.Rows
				rows.Append(nil, []byte("x"))
				_, err := l.Append(e.t.Context(), 77, hotbuffer.Append{Parts: []hotbuffer.Part{{Rows: &rows}}})
				e.must(err)
			})
		}, []string{"VIEW_STATE FAILURE "}},
		{"row of a stream", flipRow("fresh", 0, 0), []string{"DAMAGED FAILURE default.fresh", "LOST FAILURE default.fresh"}},
	} {
		t.Run(p.name, func(t *testing.T) {
			e := newEnv(t)
			p.damage(e)
			found, branches := all(e)
			slices.Sort(found)
			if diff := gocmp.Diff(p.want, slices.Compact(found)); diff != "" {
				t.Error(diff)
			}
			want := len(streams) + 1
			if p.name == "deleted stream" {
				want--
			}
			if branches != want {
				t.Errorf("%d summaries, want %d", branches, want)
			}
		})
	}
}

// What expiry leaves behind, and what a collection has on its list, is no failure.
func TestOrphansThatAreExpected(t *testing.T) {
	e := newEnv(t)
	q := verify.Request{Grace: time.Nanosecond}
	e.wanted("moved", q)
	table := func(do func(d *dataset.Datasets, id string)) {
		e.with("moved", func(_ *catalog.Catalog, d *dataset.Datasets, b catalog.Branch) { do(d, b.TableUUID) })
	}
	table(func(d *dataset.Datasets, id string) {
		out, err := d.Expire(t.Context(), id, dataset.ExpireOptions{MaxAge: time.Nanosecond})
		e.must(err)
		if len(out.Expired) == 0 {
			t.Fatal("nothing expired")
		}
	})
	// An older metadata file still leads to what expired.
	e.wanted("moved", q)
	for _, f := range e.files("moved", "metadata") {
		if strings.HasSuffix(f, ".json") && f != head(e, "moved") {
			e.must(os.Remove(f))
		}
	}
	past := time.Now().Add(-time.Hour) // the copy made them anew
	for _, f := range e.files("moved", "metadata") {
		e.must(os.Chtimes(f, past, past))
	}
	left := e.wanted("moved", q, "ORPHAN notice", "ORPHAN notice")
	for _, f := range left.findings {
		if !strings.Contains(f.Place, "/snap-") {
			t.Error(f)
		}
	}
	// A file of today is no leftover of old versions, unless it is listed.
	stray(e, "moved", -time.Second)
	time.Sleep(1100 * time.Millisecond)
	e.wanted("moved", q, "ORPHAN", "ORPHAN notice", "ORPHAN notice")
	table(func(d *dataset.Datasets, id string) {
		_, err := d.Collect(t.Context(), id, dataset.CollectOptions{})
		e.must(err)
	})
	time.Sleep(5 * time.Millisecond)
	e.wanted("moved", q, "ORPHAN notice", "ORPHAN notice", "ORPHAN notice")
}
