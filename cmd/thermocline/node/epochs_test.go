package node

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/apache/arrow-go/v18/arrow"
	"github.com/apache/arrow-go/v18/arrow/array"
	"github.com/apache/arrow-go/v18/arrow/ipc"
	"github.com/apache/arrow-go/v18/arrow/memory"

	"github.com/thermocline/thermocline/catalog"
	"github.com/thermocline/thermocline/reader"
	"github.com/thermocline/thermocline/record"
	"github.com/thermocline/thermocline/schema"
	"github.com/thermocline/thermocline/writer"
)

// everything is a schema of every type, and what it becomes: fields added, with a
// default and without, and others widened.
const (
	everything = `{"fields":[%s
	{"name":"number","type":"LONG","nullable":false},
	{"name":"boolean","type":"BOOLEAN"},{"name":"byte","type":"BYTE"},{"name":"short","type":"%s"},{"name":"integer","type":"INTEGER"},
	{"name":"float","type":"%s"},{"name":"double","type":"DOUBLE"},{"name":"decimal","type":"DECIMAL","precision":%d,"scale":4},
	{"name":"string","type":"STRING"},{"name":"binary","type":"BINARY"},{"name":"date","type":"DATE"},{"name":"timestamp","type":"TIMESTAMP"},
	{"name":"array","type":"ARRAY","element":{"type":"DECIMAL","precision":38,"scale":9}},{"name":"map","type":"MAP","value":{"type":"TIMESTAMP"}},
	{"name":"struct","type":"STRUCT","fields":[{"name":"flag","type":"BOOLEAN","nullable":false},{"name":"list","type":"ARRAY","element":{"type":"STRUCT","fields":[{"name":"x","type":"STRING"}]}}]}
	]}`
	more = `{"name":"more","type":"STRING"},{"name":"filled","type":"INTEGER","nullable":false,"default":7},`
)

// anyRow is a row of everything: each field is there two times of three.
func anyRow(rnd *rand.Rand, n int) string {
	var b strings.Builder
	fmt.Fprintf(&b, `{"number":%d`, n)
	for _, f := range [][]string{
		{"boolean", "true", "false"}, {"byte", "-128", "0", "127"}, {"short", "-32768", "12"}, {"integer", "-2147483648", "3"},
		{"float", "0.1", "-0.0", "3.4e38"}, {"double", "0.1", "-1.7e308"}, {"decimal", `"-12345.6789"`, `"0"`},
		{"string", `""`, `"ä\u0000 and more"`, `"x"`}, {"binary", `""`, `"AAH/"`}, {"date", `"1969-12-31"`, `"2018-02-05"`},
		{"timestamp", `"1969-12-31T23:59:59.999999Z"`, `"2018-02-05T10:00:00.000001Z"`},
		{"array", `[]`, `["1.5",null,"-0.000000001"]`}, {"map", `{}`, `{"a":"2018-02-05T10:00:00Z","b":null}`},
		{"struct", `{"flag":true}`, `{"flag":false,"list":[{"x":"y"},null,{}]}`},
	} {
		if rnd.IntN(3) > 0 {
			fmt.Fprintf(&b, `,%q:%s`, f[0], f[1+rnd.IntN(len(f)-1)])
		}
	}
	b.WriteByte('}')
	return b.String()
}

// encodedEpochs tails partitions exactly once from the beginning up to a
// checkpoint, and returns the text of each epoch.
func (w *world) encodedEpochs(stream string, parts []record.Partition, last catalog.Checkpoint) map[int64]string {
	w.t.Helper()
	ctx, cancel := context.WithTimeout(w.t.Context(), 20*time.Second)
	defer cancel()
	res, err := w.b.Reader.Tail(ctx, stream, "main", reader.Request{Consistency: catalog.ExactlyOnce, System: true, Partitions: parts})
	if err != nil {
		w.t.Fatal(err)
	}
	external := schema.NewExternal(res.Schema)
	got := map[int64]string{}
	var open []arrow.RecordBatch
	for b, err := range res.Batches {
		if err != nil {
			w.t.Fatal(err)
		}
		if b.Rows != nil {
			b.Rows.Retain()
			open = append(open, b.Rows)
		}
		if !b.EpochEnd {
			continue
		}
		got[b.Epoch] = w.encode(external, open)
		open = nil
		at := b.Next.Next
		if !slices.ContainsFunc(parts, func(p record.Partition) bool { return at.At(p) < last.Cut.At(p) }) && (parts != nil || at.Covers(last.Cut)) {
			return got
		}
	}
	w.t.Fatal("the tail ended")
	return nil
}

// encode writes batches, which it releases, as JSON lines, and as an Arrow stream
// that must say the same. They are one batch there: how many there are is no part of
// an epoch, and neither is what an Arrow column holds where a value is null.
func (w *world) encode(x *schema.External, batches []arrow.RecordBatch) string {
	w.t.Helper()
	if len(batches) == 0 {
		w.t.Fatal("an epoch without rows")
	}
	var columns []arrow.Array
	rows := int64(0)
	for i := range batches[0].Columns() {
		var parts []arrow.Array
		for _, b := range batches {
			parts = append(parts, b.Column(i))
		}
		c, err := array.Concatenate(parts, memory.DefaultAllocator)
		if err != nil {
			w.t.Fatal(err)
		}
		columns = append(columns, c)
	}
	for _, b := range batches {
		rows += b.NumRows()
	}
	whole := array.NewRecordBatch(batches[0].Schema(), columns, rows)
	for _, b := range batches {
		b.Release()
	}
	out, err := x.Convert(whole)
	if err != nil {
		w.t.Fatal(err)
	}
	var lines, stream, again bytes.Buffer
	arrows := ipc.NewWriter(&stream, ipc.WithSchema(x.Schema()))
	if err := errors.Join(array.RecordToJSON(out, &lines), arrows.Write(out), arrows.Close()); err != nil {
		w.t.Fatal(err)
	}
	r, err := ipc.NewReader(&stream)
	if err != nil {
		w.t.Fatal(err)
	}
	defer r.Release()
	for r.Next() {
		if err := array.RecordToJSON(r.RecordBatch(), &again); err != nil {
			w.t.Fatal(err)
		}
	}
	if r.Err() != nil || !r.Schema().Equal(x.Schema()) || again.String() != lines.String() {
		w.t.Fatalf("an Arrow stream with other rows, %v:\n%s\nwritten:\n%s", r.Err(), again.String(), lines.String())
	}
	return lines.String()
}

// An epoch has the same rows, byte by byte, hot, half archived, cold, and after
// restarts in each state: read whole and by any division of the partitions, with
// rows of all types and of two schemas.
func TestEpochsAreFixed(t *testing.T) {
	t.Parallel()
	w := newWorldWith(t, catalog.Settings{}, Options{}) // checkpoints where we take them
	first := mustParse(t, fmt.Sprintf(everything, "", "SHORT", "FLOAT", 9))
	if _, err := w.node.directory.Create(t.Context(), "e", first, catalog.Settings{Partitions: 3, ArchiveInterval: catalog.MaxArchiveInterval}); err != nil {
		t.Fatal(err)
	}
	rnd := rand.New(rand.NewPCG(1, 2))
	var last catalog.Checkpoint
	rows := 0
	epochs := func(n int) {
		t.Helper()
		for range n {
			for range 1 + rnd.IntN(4) {
				var body strings.Builder
				for range 1 + rnd.IntN(20) {
					body.WriteString(anyRow(rnd, rows) + "\n")
					rows++
				}
				if _, err := w.node.writer.Publish(t.Context(), writer.Request{Stream: "e", Branch: "main", Format: writer.JSON, Body: []byte(body.String())}); err != nil {
					t.Fatal(err)
				}
			}
			st, err := w.node.directory.Resolve("e", "main")
			if err != nil {
				t.Fatal(err)
			}
			if last, err = w.node.checks.Take(t.Context(), st.Branch.View.ID); err != nil {
				t.Fatal(err)
			}
		}
	}
	archive := func() {
		t.Helper()
		if _, err := w.b.Archiver.ArchiveNow(t.Context(), "e", "main"); err != nil {
			t.Fatal(err)
		}
	}
	divisions := [][]record.Partition{nil, {0}, {1}, {2}, {0, 1}, {1, 2}, {2, 0}, {0, 1, 2}}
	read := func() (all []map[int64]string) {
		t.Helper()
		for _, parts := range divisions {
			all = append(all, w.encodedEpochs("e", parts, last))
		}
		return all
	}
	var want []map[int64]string
	same := func(state string) {
		t.Helper()
		for i, got := range read() {
			if len(got) < len(want[i]) {
				t.Errorf("%s, partitions %v: %d epochs, were %d", state, divisions[i], len(got), len(want[i]))
			}
			for n, epoch := range want[i] {
				if got[n] != epoch {
					t.Fatalf("%s, partitions %v: epoch %d has other rows:\n%s\nbefore:\n%s", state, divisions[i], n, got[n], epoch)
				}
			}
		}
	}

	epochs(4)
	fourth := last
	if _, err := w.node.directory.Evolve(t.Context(), "e", "main", mustParse(t, fmt.Sprintf(everything, more, "INTEGER", "DOUBLE", 20))); err != nil {
		t.Fatal(err)
	}
	epochs(4)
	want = read()
	if len(want[0]) != 8 || !maps.Equal(want[0], want[len(want)-1]) {
		t.Fatalf("%d epochs, and those of all partitions differ from those of all named", len(want[0]))
	}
	total := 0
	for _, epoch := range want[0] {
		total += strings.Count(epoch, "\n")
	}
	if total != rows {
		t.Fatalf("epochs hold %d rows, %d were published", total, rows)
	}
	same("hot again")
	w.restart()
	same("hot, restarted")
	archive()
	same("cold")
	w.restart()
	same("cold, restarted")
	st, err := w.node.directory.Resolve("e", "main")
	if err != nil {
		t.Fatal(err)
	}
	at, err := w.node.reader.Seek(t.Context(), readTarget(st), time.UnixMilli(fourth.Timestamp+1))
	if err != nil || !at.Next.Equal(fourth.Cut) || at.Checkpoint != fourth.Number {
		t.Errorf("behind epoch 4 is %v, checkpoint %d, %v; want %v", at.Next, at.Checkpoint, err, fourth.Cut)
	}
	epochs(3)
	same("half archived")
	want = read()
	w.restart()
	same("half archived, restarted")
	archive()
	same("cold, in two archives")
}
