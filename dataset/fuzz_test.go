package dataset

import (
	"testing"

	"github.com/apache/iceberg-go/table"
	"github.com/google/go-cmp/cmp"
	"github.com/google/uuid"

	"github.com/thermocline/thermocline/record"
	"github.com/thermocline/thermocline/record/recordtest"
)

// FuzzFileName: a name that is taken for one of ours says what one of ours
// would.
func FuzzFileName(f *testing.F) {
	id := uuid.MustParse("7d444840-9dc0-11d1-b245-5ffdce74fad2")
	for _, n := range []FileName{{}, {View: 3, Epoch: 9, Ranges: []PartRange{{1, record.Range{Start: 5, End: 8}}, {2, record.Range{}}}}} {
		f.Add("file:///w/t/data/" + n.format(id) + ".parquet")
	}
	f.Add("v1-e2-n700-" + id.String() + ".avro")
	f.Add("v1-e2-p0.9.3-x")
	f.Fuzz(func(t *testing.T, location string) {
		recordtest.Bounded(t, 16<<10+64*len(location), func() {
			n, partitions, ok := parseFileName(location)
			if !ok {
				return
			}
			if err := n.check(); err != nil {
				t.Fatal(err)
			}
			if len(n.Ranges) == 0 || len(n.Ranges) > maxNamedRanges {
				return
			}
			again, parts, ok := parseFileName(n.format(id))
			if diff := cmp.Diff(n, again); !ok || parts != partitions || diff != "" {
				t.Fatalf("%q: %s", location, diff)
			}
		})
	})
}

// FuzzMarker: a marker in a snapshot's summary is taken whole and valid, or it
// is none.
func FuzzMarker(f *testing.F) {
	f.Add("[1,2]", "7", "2", "1", "id", "1000")
	f.Add(`{"0":1}`, "7", "2", "1", "id", "1000")
	f.Add(`{"4000000000":1}`, "-7", "2", "1", "", "1000")
	f.Add(`{"8191":1}`, "7", "2", "1", "id", "1000")
	f.Fuzz(func(t *testing.T, offsets, view, number, epoch, commit, through string) {
		s := &table.Snapshot{SnapshotID: 4, Summary: &table.Summary{Properties: map[string]string{
			offsetsKey: offsets, viewKey: view, viewNumberKey: number, epochKey: epoch, commitIDKey: commit, validThroughKey: through,
		}}}
		recordtest.Bounded(t, 256<<10+64*len(offsets), func() {
			m := parseMarker(s)
			if m == nil {
				return
			}
			if err := m.check(); err != nil {
				t.Fatal(err)
			}
			p, err := m.properties()
			if err != nil {
				t.Fatal(err)
			}
			again := parseMarker(&table.Snapshot{SnapshotID: 4, Summary: &table.Summary{Properties: p}})
			if again == nil || !again.Offsets.Equal(m.Offsets) {
				t.Fatalf("%+v became %+v", m, again)
			}
			again.Offsets = m.Offsets
			if diff := cmp.Diff(m, again); diff != "" {
				t.Fatal(diff)
			}
		})
	})
}
