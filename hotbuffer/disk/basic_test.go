package disk

import (
	"context"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/thermocline/thermocline/hotbuffer"
	"github.com/thermocline/thermocline/record"
)

func TestBasic(t *testing.T) {
	fs := vfs.NewMem()
	for round := range 3 {
		l, err := Open("log", Options{FS: fs, SegmentBytes: 64 << 10})
		if err != nil {
			t.Fatal(err)
		}
		ctx := context.Background()
		if err := l.Open(ctx, 1, hotbuffer.Settings{Type: hotbuffer.LowLatency, Partitions: 2}); err != nil {
			t.Fatal(err)
		}
		for range 100 {
			var rows record.Rows
			rows.Append([]byte("k"), make([]byte, 1000))
			if _, err := l.Append(ctx, 1, hotbuffer.Append{Parts: []hotbuffer.Part{{Partition: 1, Rows: &rows}}}); err != nil {
				t.Fatal(err)
			}
		}
		e, _ := l.Ends(1)
		if int(e.End[1]) != 100*(round+1) {
			t.Fatal(e)
		}
		b, err := l.Read(ctx, 1, 1, 50, 1<<20)
		if err != nil {
			t.Fatal(err)
		}
		t.Log(len(b), b[0].BaseOffset(), l.LogStats())
		if err := l.Close(); err != nil {
			t.Fatal(err)
		}
	}
}
