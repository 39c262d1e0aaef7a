package dataset_test

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"math/rand/v2"
	"path"
	"slices"
	"strings"
	"testing"

	"github.com/apache/arrow-go/v18/arrow"

	"github.com/thermocline/thermocline/dataset"
	"github.com/thermocline/thermocline/dataset/objstore"
	"github.com/thermocline/thermocline/record"
	"github.com/thermocline/thermocline/schema"
)

// damaged is a table of one file that a test replaces by bad ones.
type damaged struct {
	*env
	table *dataset.Table
	info  dataset.FileInfo
	key   string
	good  []byte
	want  string // the rows
	one   *schema.Schema
	first string // the rows of one
}

func newDamaged(t *testing.T, format dataset.Format) *damaged {
	t.Helper()
	d := &damaged{env: newMemEnv(t)}
	d.d.SetRowGroupRows(200)
	s := allTypes()
	table := d.create(s)
	var batches []arrow.RecordBatch
	for i := range 10 {
		b := randomBatch(rand.New(rand.NewPCG(1, uint64(i))), s, 60*i, 60)
		defer b.Release()
		batches = append(batches, b)
	}
	f := d.fileAs(format, table, s, fileName(0, 0, 600), batches...)
	d.table = d.commit(dataset.Commit{Add: []dataset.DataFile{f}})
	for info, err := range d.table.Files(t.Context(), 0) {
		if err != nil {
			t.Fatal(err)
		}
		d.info = info
	}
	d.key, d.good = d.object(f.Path())
	d.want = fmt.Sprint(d.rows(d.table, dataset.ScanOptions{}))
	d.one = &schema.Schema{Fields: s.Fields[:1]}
	d.first = fmt.Sprint(d.rows(d.table, dataset.ScanOptions{Schema: d.one}))
	if !d.info.HasChecksums() {
		t.Fatalf("%s has no checksums", f.Path())
	}
	return d
}

func (e *env) object(location string) (key string, data []byte) {
	e.t.Helper()
	key, err := objstore.Key(e.store, location)
	if err != nil {
		e.t.Fatal(err)
	}
	if data, err = objstore.Get(e.t.Context(), e.store, key, 1<<24); err != nil {
		e.t.Fatal(err)
	}
	return key, data
}

func (e *env) replace(key string, data []byte) {
	e.t.Helper()
	if err := e.store.Delete(e.t.Context(), key); err != nil {
		e.t.Fatal(err)
	}
	if err := objstore.Put(e.t.Context(), e.store, key, data); err != nil {
		e.t.Fatal(err)
	}
}

// detected fails the test unless the bad file is found by a check, and by a
// scan of everything; a scan of one column either finds the damage or has not
// met it.
func (d *damaged) detected(what string, bad []byte, everything bool) {
	d.t.Helper()
	d.replace(d.key, bad)
	is := func(op string, err error) {
		d.t.Helper()
		if !errors.Is(err, record.ErrCorrupt) || !strings.Contains(err.Error(), d.info.Path) {
			d.t.Fatalf("%s: %s ended with %v, want ErrCorrupt with the file's name", what, op, err)
		}
	}
	is("the check", d.table.CheckFile(d.t.Context(), d.info))
	rows, err := scanRows(d.t.Context(), d.table, dataset.ScanOptions{Schema: d.one})
	switch {
	case err != nil:
		is("the scan of a column", err)
	case fmt.Sprint(rows) != d.first:
		d.t.Fatalf("%s: the scan of a column delivered other rows", what)
	}
	if everything {
		_, err = scanRows(d.t.Context(), d.table, dataset.ScanOptions{})
		is("the scan", err)
	}
}

// TestDamagedDataFiles: no flipped bit, no truncation and no other file in a
// file's place is served.
func TestDamagedDataFiles(t *testing.T) {
	t.Parallel()
	for _, format := range []dataset.Format{dataset.Parquet, dataset.Avro} {
		t.Run(string(format), func(t *testing.T) {
			t.Parallel()
			d := newDamaged(t, format)
			rng := rand.New(rand.NewPCG(2, 2))
			flip := func(at int, everything bool) {
				bad := slices.Clone(d.good)
				bad[at] ^= 1 << rng.IntN(8)
				d.detected(fmt.Sprintf("a flipped bit in byte %d of %d", at, len(d.good)), bad, everything)
			}
			stride, anywhere := 1, 400
			if raced {
				stride, anywhere = 37, 40
			}
			end := len(d.good) - d.end()
			points := 0
			for at := 0; at < 300; at += stride { // the header
				flip(at, at%16 == 0)
				points++
			}
			for at := end; at < len(d.good); at += stride { // checksums and footer
				flip(at, at%16 == 0)
				points++
			}
			for range anywhere {
				flip(rng.IntN(len(d.good)), true)
				points++
			}
			for _, n := range []int{0, 1, 4, 7, 8, 47, 48, 100, end - 1, end, end + 1, len(d.good) / 2, len(d.good) - 48, len(d.good) - 8, len(d.good) - 4, len(d.good) - 1} {
				d.detected(fmt.Sprintf("a truncation to %d of %d bytes", n, len(d.good)), d.good[:n], true)
				zeros := slices.Concat(d.good[:n], make([]byte, len(d.good)-n))
				d.detected(fmt.Sprintf("zeros from byte %d of %d", n, len(d.good)), zeros, true)
				points += 2
			}
			d.detected("a longer file", append(slices.Clone(d.good), d.good...), true)
			// Two chunks that changed places.
			swapped := slices.Clone(d.good)
			copy(swapped, d.good[16<<10:32<<10])
			copy(swapped[16<<10:], d.good[:16<<10])
			d.detected("swapped chunks", swapped, true)
			t.Logf("%d damages of a file of %d bytes, %d of them its end", points+2, len(d.good), len(d.good)-end)
			d.replace(d.key, d.good)
			if got := fmt.Sprint(d.rows(d.table, dataset.ScanOptions{})); got != d.want {
				t.Error("the file as it was does not deliver its rows")
			}
			if err := d.table.CheckFile(t.Context(), d.info); err != nil {
				t.Error(err)
			}
		})
	}
}

// end is where the checked end of a file begins, measured from its size.
func (d *damaged) end() int {
	d.t.Helper()
	at := strings.LastIndex(string(d.good), "TCsums\x00\x01")
	if at < 0 {
		d.t.Fatal("the file has no trailer")
	}
	return len(d.good) - int(binary.BigEndian.Uint64(d.good[at+24:]))
}

// A whole, undamaged file in the place of another of the same size.
func TestSwappedDataFiles(t *testing.T) {
	t.Parallel()
	for _, format := range []dataset.Format{dataset.Parquet, dataset.Avro} {
		e := newMemEnv(t)
		table := e.create(numbers())
		var files []dataset.DataFile
		for range 2 {
			b := numberBatch(numbers(), 0, 0, 100)
			defer b.Release()
			files = append(files, e.fileAs(format, table, numbers(), fileName(0, 0, 100), b))
		}
		if files[0].Bytes() != files[1].Bytes() {
			t.Fatalf("files of %d and %d bytes; the test needs the same size", files[0].Bytes(), files[1].Bytes())
		}
		table = e.commit(dataset.Commit{Add: files})
		key, _ := e.object(files[0].Path())
		_, other := e.object(files[1].Path())
		e.replace(key, other)
		_, err := scanRows(t.Context(), table, dataset.ScanOptions{})
		wantIs(t, err, record.ErrCorrupt)
		// The other one is served.
		for info, err := range table.Files(t.Context(), 0) {
			if err != nil {
				t.Fatal(err)
			}
			if err := table.CheckFile(t.Context(), info); (err != nil) != (info.Path == files[0].Path()) {
				t.Errorf("%s: %s: %v", format, info.Path, err)
			}
		}
	}
}

// Files without checksums, as earlier versions wrote them, stay readable.
func TestFilesWithoutChecksums(t *testing.T) {
	t.Parallel()
	for _, format := range []dataset.Format{dataset.Parquet, dataset.Avro} {
		e := newMemEnv(t)
		table := e.create(numbers())
		b := numberBatch(numbers(), 0, 0, 100)
		defer b.Release()
		f, err := table.WithoutChecksums(t.Context(), e.fileAs(format, table, numbers(), fileName(0, 0, 100), b))
		if err != nil {
			t.Fatal(err)
		}
		if f.Info().HasChecksums() {
			t.Fatalf("%s claims to have checksums", f.Path())
		}
		table = e.commit(dataset.Commit{Add: []dataset.DataFile{f}})
		e.wantOffsets(table, 100)
		if err := table.CheckFile(t.Context(), f.Info()); err != nil {
			t.Errorf("%s: %v", format, err)
		}
		key, good := e.object(f.Path())
		if strings.Contains(string(good), "TCsums") {
			t.Fatal("the file has checksums")
		}
		e.replace(key, good[:len(good)/2])
		wantIs(t, table.CheckFile(t.Context(), f.Info()), record.ErrCorrupt)
	}
}

// TestTrailerCoversTheEnd holds the format: the CRC as the diagram has it.
func TestTrailerCoversTheEnd(t *testing.T) {
	t.Parallel()
	d := newDamaged(t, dataset.Parquet)
	at := strings.LastIndex(string(d.good), "TCsums\x00\x01")
	data := binary.BigEndian.Uint64(d.good[at+24:])
	if size := binary.BigEndian.Uint64(d.good[at+32:]); size != uint64(len(d.good)) {
		t.Errorf("the trailer says %d bytes, the file has %d", size, len(d.good))
	}
	c := crc32.MakeTable(crc32.Castagnoli)
	sum := crc32.Checksum(slices.Concat(d.good[data:at+44], d.good[at+48:]), c)
	if want := binary.BigEndian.Uint32(d.good[at+44:]); sum != want {
		t.Errorf("CRC of the end is %08x, want %08x", sum, want)
	}
	chunks := (int(data) + 16<<10 - 1) / (16 << 10)
	for i := range chunks {
		chunk := d.good[i<<14 : min((i+1)<<14, int(data))]
		if want := binary.BigEndian.Uint32(d.good[at-4*chunks+4*i:]); crc32.Checksum(chunk, c) != want {
			t.Errorf("the CRC of chunk %d is %08x, want %08x", i, crc32.Checksum(chunk, c), want)
		}
	}
}

// readVersions reads all metadata of the table from scratch.
func (e *env) readVersions() error {
	table, err := e.other().Load(e.t.Context(), e.id)
	if err != nil {
		return err
	}
	for f := range table.Reach(e.t.Context()) {
		if !f.Former && f.Err != nil {
			return f.Err
		}
	}
	return nil
}

// TestMetadataIsChecked: metadata files, manifest lists and manifests of every
// kind: a flipped bit, a truncation, another file in its place, and a missing
// file are ErrCorrupt and name it.
func TestMetadataIsChecked(t *testing.T) {
	t.Parallel()
	e := newMemEnv(t)
	e.create(numbers())
	for o := record.Offset(0); o < 40; o += 10 {
		e.addNumbers(o, o+10)
	}
	e.compactAll(dataset.CompactOptions{})
	e.addNumbers(40, 50)
	e.commit(dataset.Commit{RemoveAll: true})
	e.addNumbers(50, 60)
	kinds := map[string][]string{}
	for f := range e.load().Reach(t.Context()) {
		if !f.Former && f.What != "data file" {
			kinds[f.What] = append(kinds[f.What], f.Location)
		} else if f.Former && f.What == "metadata" {
			kinds["former metadata"] = append(kinds["former metadata"], f.Location)
		}
	}
	if err := e.readVersions(); err != nil {
		t.Fatal(err)
	}
	rng := rand.New(rand.NewPCG(5, 5))
	points, flips := 0, 30
	if raced {
		flips = 4
	}
	for _, kind := range []string{"metadata", "manifest list", "manifest"} {
		locations := kinds[kind]
		if len(locations) < 7 && kind != "metadata" {
			t.Fatalf("%d %ss", len(locations), kind)
		}
		for i, location := range locations {
			key, good := e.object(location)
			damages := map[string][]byte{"nothing": {}, "one byte": good[:1], "half of it": good[:len(good)/2], "all but a byte": good[:len(good)-1], "a byte more": append(slices.Clone(good), 0)}
			for range flips {
				at := rng.IntN(len(good))
				bad := slices.Clone(good)
				bad[at] ^= 1 << rng.IntN(8)
				damages[fmt.Sprintf("a flipped bit in byte %d", at)] = bad
			}
			others := append(slices.Clone(locations[:i]), locations[i+1:]...)
			if kind == "metadata" {
				others = kinds["former metadata"]
			}
			for _, other := range others {
				_, damages["the file "+path.Base(other)] = e.object(other)
			}
			for what, bad := range damages {
				e.replace(key, bad)
				if err := e.readVersions(); !errors.Is(err, record.ErrCorrupt) || !strings.Contains(err.Error(), path.Base(key)) {
					t.Fatalf("%s %s with %s in its place: %v, want ErrCorrupt with its name", kind, key, what, err)
				}
				points++
			}
			if err := e.store.Delete(t.Context(), key); err != nil {
				t.Fatal(err)
			}
			if err := e.readVersions(); !errors.Is(err, record.ErrCorrupt) || !strings.Contains(err.Error(), path.Base(key)) {
				t.Fatalf("%s %s is missing: %v, want ErrCorrupt with its name", kind, key, err)
			}
			if err := objstore.Put(t.Context(), e.store, key, good); err != nil {
				t.Fatal(err)
			}
		}
	}
	t.Logf("%d damages", points)
	if err := e.readVersions(); err != nil {
		t.Fatal(err)
	}
}
