package verify_test

import (
	"bytes"
	"encoding/binary"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/apache/iceberg-go"

	"github.com/thermocline/thermocline/catalog"
	"github.com/thermocline/thermocline/dataset"
	"github.com/thermocline/thermocline/schema"
)

// claims are what a manifest says of a data file.
type claims struct {
	rows         int64
	lower, upper map[int][]byte
}

// claimed writes the head's manifests anew, as one that says something else of the
// first data file.
func claimed(stream string, change func(*claims)) func(e *env) {
	return func(e *env) {
		e.t.Helper()
		e.with(stream, func(_ *catalog.Catalog, d *dataset.Datasets, b catalog.Branch) {
			t, err := d.Load(e.t.Context(), b.TableUUID)
			e.must(err)
			m := t.Metadata()
			s := m.CurrentSnapshot()
			local := func(location string) []byte {
				text, err := os.ReadFile(strings.TrimPrefix(location, "file://"))
				e.must(err)
				return text
			}
			manifests, err := iceberg.ReadManifestList(bytes.NewReader(local(s.ManifestList)))
			e.must(err)
			var out bytes.Buffer
			w, err := iceberg.NewManifestWriter(2, &out, *iceberg.UnpartitionedSpec, m.CurrentSchema(), s.SnapshotID)
			e.must(err)
			for _, old := range manifests {
				entries, err := iceberg.ReadManifest(old, bytes.NewReader(local(old.FilePath())), true)
				e.must(err)
				for _, entry := range entries {
					f := entry.DataFile()
					c := claims{f.Count(), f.LowerBoundValues(), f.UpperBoundValues()}
					if strings.Contains(f.FilePath(), "-p0.0.") {
						change(&c)
					}
					b, err := iceberg.NewDataFileBuilder(*iceberg.UnpartitionedSpec, iceberg.EntryContentData, f.FilePath(), f.FileFormat(), nil, nil, nil, c.rows, f.FileSizeBytes())
					e.must(err)
					b.ValueCounts(f.ValueCounts()).NullValueCounts(f.NullValueCounts()).LowerBoundValues(c.lower).UpperBoundValues(c.upper)
					snapshot, sequence, file := entry.SnapshotID(), entry.SequenceNum(), entry.FileSequenceNum()
					e.must(w.Existing(iceberg.NewManifestEntry(iceberg.EntryStatusEXISTING, &snapshot, &sequence, file, b.Build())))
				}
			}
			e.must(w.Close())
			dir := filepath.Dir(strings.TrimPrefix(t.MetadataLocation(), "file://"))
			put := func(name string, text []byte) string {
				e.must(os.WriteFile(filepath.Join(dir, name), text, 0o600))
				return "file://" + filepath.Join(dir, name)
			}
			mf, err := w.ToManifestFile("file://"+filepath.Join(dir, "other-m0.avro"), int64(out.Len()))
			e.must(err)
			put("other-m0.avro", out.Bytes())
			var list bytes.Buffer
			e.must(iceberg.WriteManifestList(2, &list, s.SnapshotID, s.ParentSnapshotID, &s.SequenceNumber, 0, []iceberg.ManifestFile{mf}))
			location := put("snap-other.avro", list.Bytes())
			text := bytes.ReplaceAll(local(t.MetadataLocation()), []byte(s.ManifestList), []byte(location))
			e.changed("UPDATE table_pointers SET location = $1 WHERE table_uuid = $2", put("99999-other.metadata.json", text), b.TableUUID)
		})
	}
}

func TestFalseManifests(t *testing.T) {
	long := func(n uint64) []byte { return binary.LittleEndian.AppendUint64(nil, n) }
	// Fields: k 1, producer 2, seq 3, n 4.
	for _, p := range []plant{
		{name: "as it was", stream: "kept", damage: claimed("kept", func(*claims) {})},
		{name: "one row more", stream: "kept", damage: claimed("kept", func(c *claims) { c.rows++ }), want: []string{"ROW_COUNT v1"}},
		{name: "offsets", stream: "kept", damage: claimed("kept", func(c *claims) { c.upper[schema.OffsetID] = long(27) }), want: []string{"BOUNDS v1 p0 [28,30)"}},
		{name: "largest number", stream: "moved", damage: claimed("moved", func(c *claims) { c.lower[4], c.upper[4] = long(0), long(37) }), want: []string{"BOUNDS v1 p0 [28,30)"}},
		{name: "smallest text", stream: "kept", damage: claimed("kept", func(c *claims) { c.lower[1] = []byte("key-1") }), want: []string{
			"BOUNDS v1 p0 [0,1)", "BOUNDS v1 p0 [12,13)", "BOUNDS v1 p0 [15,16)", "BOUNDS v1 p0 [18,19)", "BOUNDS v1 p0 [21,22)",
			"BOUNDS v1 p0 [24,25)", "BOUNDS v1 p0 [27,28)", "BOUNDS v1 p0 [3,4)", "BOUNDS v1 p0 [6,7)", "BOUNDS v1 p0 [9,10)"}},
		{name: "largest sequence", stream: "kept", damage: claimed("kept", func(c *claims) { c.upper[3] = long(17) }), want: []string{
			"BOUNDS v1 p0 [27,30)", "BOUNDS v1 p1 [9,10)"}},
	} {
		t.Run(p.name, func(t *testing.T) {
			e := newEnv(t)
			p.damage(e)
			out := e.verify(p.stream, labelled)
			// The manifests before are left without an owner.
			var got []string
			for _, f := range out.short() {
				if !strings.HasPrefix(f, "ORPHAN notice") {
					got = append(got, f)
				}
			}
			if strings.Join(got, "; ") != strings.Join(p.want, "; ") {
				t.Errorf("got  %q\nwant %q", got, p.want)
			}
		})
	}
}
