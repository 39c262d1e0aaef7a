package verify_test

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/apache/arrow-go/v18/parquet/file"

	"github.com/thermocline/thermocline/api"
	"github.com/thermocline/thermocline/cmd/thermocline/node"
	"github.com/thermocline/thermocline/verify"
	"github.com/thermocline/thermocline/writer"
)

// streams are those of the prepared directory.
var streams = []string{"kept", "moved", "reset", "drains", "fresh"}

func TestSoundStreamsHaveNoFindings(t *testing.T) {
	e := newEnv(t)
	for _, s := range streams {
		e.want(s)
	}
	// That nothing was found must not be because nothing was looked at.
	kept := e.want("kept").summary
	if kept.ColdRows != 64 || kept.HotRows != 80 || kept.Compared != 64 || kept.Files != 2 || kept.Sequences != 80 || kept.Producers != 2 || kept.Checkpoints != 2 || kept.Objects == 0 {
		t.Errorf("kept: %+v", kept)
	}
	if moved := e.want("moved").summary; moved.ColdRows != 64 || moved.HotRows != 16 || moved.Sequences != 80 {
		t.Errorf("moved: %+v", moved)
	}
}

// A column that was dropped is in no scan any more, but in the file.
func TestDroppedColumnsAreChecked(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	n, err := node.Open(t.Context(), node.Options{Dir: dir, SegmentBytes: 1 << 20, LogBytes: 64 << 20, Logger: quiet})
	if err != nil {
		t.Fatal(err)
	}
	f, err := newFeed(n, "slim", 0, "PARQUET")
	if err == nil {
		var b strings.Builder
		random := rand.New(rand.NewPCG(1, 2))
		for range 20_000 { // more than the piece of a file that has one checksum
			fmt.Fprintf(&b, `{"k":"k","n":%d}`+"\n", random.Int64())
		}
		_, err = n.Backend().Publisher.Publish(t.Context(), writer.Request{Stream: f.stream, Branch: "main", Format: writer.JSON, Body: []byte(b.String())})
	}
	if err == nil {
		err = f.archive()
	}
	if err == nil {
		var s api.SchemaVersion
		if s, err = n.Backend().Schemas.Schema(t.Context(), f.stream, "main"); err == nil {
			slim := s.Schema.Clone()
			slim.Fields = slim.Fields[:3]
			_, err = n.Backend().Schemas.Evolve(t.Context(), f.stream, "main", slim)
		}
	}
	if err = errors.Join(err, n.Close()); err != nil {
		t.Fatal(err)
	}
	e := &env{t: t, dir: dir}
	defer e.close()
	if out := e.wanted("slim", verify.Request{}); out.summary.ColdRows != 20_000 {
		t.Errorf("%+v", out.summary)
	}
	path := e.files("slim", "data")[0]
	pf, err := file.OpenParquetFile(path, false)
	e.must(err)
	chunk, err := pf.MetaData().RowGroup(0).ColumnChunk(3)
	e.must(err)
	if chunk.PathInSchema().String() != "n" || chunk.TotalCompressedSize() < 64<<10 {
		t.Fatalf("column %s of %d bytes", chunk.PathInSchema(), chunk.TotalCompressedSize())
	}
	at := chunk.DataPageOffset()
	if chunk.HasDictionaryPage() {
		at = min(at, chunk.DictionaryPageOffset())
	}
	at += chunk.TotalCompressedSize() / 2
	e.must(pf.Close())
	e.close()
	flip(e, path, int(at))
	e.wanted("slim", verify.Request{}, "DAMAGED v1 p0 [0,20000)")
}
