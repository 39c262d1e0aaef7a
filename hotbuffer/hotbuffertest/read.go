package hotbuffertest

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/thermocline/thermocline/hotbuffer"
	"github.com/thermocline/thermocline/record"
)

func readBatches(e *env) {
	e.openView(view, 2)
	var want []string
	for i := range 60 {
		rows := numbered(fmt.Sprint(i), 1+i%7)
		want = append(want, rows...)
		e.append(view, nil, part(1, rows...), part(0, "other"))
	}
	check := func() {
		e.Helper()
		for _, from := range []int{0, 1, 5, 100, len(want) - 1} {
			for _, maxBytes := range []int{0, 1, 300, 1 << 20} {
				got, err := readAll(e.ctx, e.b, view, 1, record.Offset(from), maxBytes)
				if err != nil || !slices.Equal(got, want[from:]) {
					e.Fatalf("from %d by %d bytes: %d rows of %d, %v", from, maxBytes, len(got), len(want)-from, err)
				}
			}
		}
		// At least one batch, then about maxBytes.
		one, err := e.b.Read(e.ctx, view, 1, 0, 0)
		if err != nil || len(one) != 1 {
			e.Fatalf("%d batches for no bytes, %v", len(one), err)
		}
		batches, err := e.b.Read(e.ctx, view, 1, 0, 500)
		size := 0
		for _, b := range batches {
			size += len(b.Bytes())
		}
		if err != nil || size > 500+200 {
			e.Fatalf("%d bytes for 500, %v", size, err)
		}
	}
	check()
	e.restart()
	e.openView(view, 2)
	check()
}

func readRange(e *env) {
	e.openView(view, 2)
	e.append(view, nil, part(0, "a", "b"))
	for name, c := range map[string]struct {
		view record.ViewID
		p    record.Partition
		from record.Offset
		want error
	}{
		"at the end":         {view, 0, 2, nil},
		"empty partition":    {view, 1, 0, nil},
		"beyond the end":     {view, 0, 3, record.ErrOutOfRange},
		"negative":           {view, 0, -1, record.ErrOutOfRange},
		"no such partition":  {view, 2, 0, record.ErrInvalid},
		"negative partition": {view, -1, 0, record.ErrInvalid},
		"no such view":       {view + 1, 0, 0, record.ErrNotFound},
	} {
		batches, err := e.b.Read(e.ctx, c.view, c.p, c.from, 100)
		if !errors.Is(err, c.want) || len(batches) != 0 {
			e.Errorf("%s: %d batches, %v", name, len(batches), err)
		}
	}
}

// readImmutable: what was read stays as it is, whatever happens to the rows.
func readImmutable(e *env) {
	e.openView(view, 1)
	var held []record.Batch
	var want [][]byte
	for i := range 50 {
		e.append(view, nil, part(0, numbered(fmt.Sprint(i), 20)...))
		batches, err := e.b.Read(e.ctx, view, 0, record.Offset(i*20), 1<<20)
		if err != nil {
			e.Fatal(err)
		}
		for _, b := range batches {
			held, want = append(held, b), append(want, bytes.Clone(b.Bytes()))
		}
	}
	if err := e.b.Release(e.ctx, view, record.Offsets{1000}); err != nil {
		e.Fatal(err)
	}
	for i := range 50 {
		e.append(view, nil, part(0, strings.Repeat("new", 1000+i)))
	}
	if err := e.b.Drop(e.ctx, view); err != nil {
		e.Fatal(err)
	}
	e.restart()
	for i, b := range held {
		if !bytes.Equal(b.Bytes(), want[i]) {
			e.Fatalf("batch %d changed", i)
		}
	}
}

// cutTimestamps: whatever is appended after a cut is later than what is below
// it, also when appends are under way and after a restart.
func cutTimestamps(e *env) {
	e.openView(view, 2)
	stop := make(chan struct{})
	var wg sync.WaitGroup
	for w := range 3 {
		wg.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				if _, err := e.b.Append(e.ctx, view, hotbuffer.Append{Parts: []hotbuffer.Part{part(record.Partition(w%2), "x")}}); err != nil {
					e.Errorf("append: %v", err)
					return
				}
			}
		})
	}
	var cuts []record.Offsets
	for range 20 {
		cut, err := e.b.Cut(e.ctx, view)
		if err != nil {
			e.Fatal(err)
		}
		if !e.ends(view).End.Covers(cut) {
			e.Fatalf("cut %v is beyond the durable ends", cut)
		}
		cuts = append(cuts, cut)
		time.Sleep(300 * time.Microsecond)
	}
	close(stop)
	wg.Wait()
	last := e.ends(view)
	cuts = append(cuts, last.End)
	e.restart()
	e.openView(view, 2)
	if got := e.ends(view); got.LastTimestamp != last.LastTimestamp {
		e.Errorf("last timestamp %d after a restart, %d before", got.LastTimestamp, last.LastTimestamp)
	}
	e.append(view, nil, part(0, "after"), part(1, "after"))

	stamps := make([][]int64, 2)
	for p := range stamps {
		var next record.Offset
		for {
			batches, err := e.b.Read(e.ctx, view, record.Partition(p), next, 1<<20)
			if err != nil {
				e.Fatal(err)
			}
			if len(batches) == 0 {
				break
			}
			for _, b := range batches {
				for range b.Len() {
					stamps[p] = append(stamps[p], b.Timestamp())
				}
				next = b.End()
			}
		}
	}
	for _, cut := range cuts {
		below, above := int64(0), int64(1)<<62
		for p := range stamps {
			at := int(cut.At(record.Partition(p)))
			for _, t := range stamps[p][:at] {
				below = max(below, t)
			}
			for _, t := range stamps[p][at:] {
				above = min(above, t)
			}
		}
		if below >= above {
			e.Fatalf("cut %v: a row below has timestamp %d, one above %d", cut, below, above)
		}
	}
}

// cutTotalOrder: rows below a cut come before all others in a scan.
func cutTotalOrder(e *env) {
	e.openView(view, 3)
	var want []string
	for i := range 10 {
		cut, err := e.b.Cut(e.ctx, view)
		if err != nil {
			e.Fatal(err)
		}
		if cut.RowsSince(nil) != int64(len(want)) {
			e.Fatalf("cut %v after %d rows", cut, len(want))
		}
		for p := range 3 {
			s := fmt.Sprintf("%d/%d", i, p)
			want = append(want, s)
			e.append(view, nil, part(record.Partition(p), s))
		}
	}
	rows, err := scanAll(e, nil, e.ends(view).End)
	if err != nil {
		e.Fatal(err)
	}
	for i, r := range rows {
		if r.value[0] != want[i][0] {
			e.Fatalf("row %d of the scan is %s", i, r.value)
		}
	}
}

type scanned struct {
	partition record.Partition
	offset    record.Offset
	timestamp int64
	value     string
}

func scanAll(e *env, from, to record.Offsets) ([]scanned, error) {
	var out []scanned
	var r record.Reader
	for pb, err := range hotbuffer.Scan(e.ctx, e.b, view, from, to) {
		if err != nil {
			return out, err
		}
		if err := r.Reset(pb.Batch); err != nil {
			return out, err
		}
		if pb.Skip >= pb.Limit || pb.Limit > pb.Batch.Len() {
			e.Fatalf("rows [%d,%d) of %d", pb.Skip, pb.Limit, pb.Batch.Len())
		}
		for i := 0; ; i++ {
			o, _, v, ok := r.Next()
			if !ok {
				break
			}
			if i >= pb.Skip && i < pb.Limit {
				out = append(out, scanned{pb.Partition, o, pb.Batch.Timestamp(), string(v)})
			}
		}
		if err := r.Err(); err != nil {
			return out, err
		}
	}
	return out, nil
}

func scanOrder(e *env) {
	e.openView(view, 4)
	var wg sync.WaitGroup
	for w := range 6 {
		wg.Go(func() {
			for i := range 60 {
				p := record.Partition((w + i) % 4)
				if _, err := e.b.Append(e.ctx, view, hotbuffer.Append{Parts: []hotbuffer.Part{part(p, numbered(fmt.Sprintf("%d/%d", w, i), 1+i%5)...)}}); err != nil {
					e.Errorf("append: %v", err)
				}
			}
		})
	}
	wg.Wait()
	end := e.ends(view).End
	from := make(record.Offsets, 4)
	to := make(record.Offsets, 4)
	for p, o := range end {
		from[p], to[p] = o/5, o*4/5
	}
	for _, c := range [][2]record.Offsets{{nil, end}, {from, to}, {from[:2], end}, {nil, to[:3]}, {to, from}, {end, end}} {
		rows, err := scanAll(e, c[0], c[1])
		if err != nil {
			e.Fatal(err)
		}
		if int64(len(rows)) != c[1].RowsSince(c[0]) {
			e.Fatalf("%d rows in [%v,%v)", len(rows), c[0], c[1])
		}
		next := append(record.Offsets(nil), c[0]...)
		for i, r := range rows {
			if r.offset != next.At(r.partition) {
				e.Fatalf("partition %v: row %v instead of %v", r.partition, r.offset, next.At(r.partition))
			}
			next = next.With(r.partition, r.offset+1)
			if i == 0 {
				continue
			}
			if l := rows[i-1]; r.timestamp < l.timestamp || r.timestamp == l.timestamp && r.partition < l.partition {
				e.Fatalf("row %+v after %+v", r, l)
			}
		}
	}
}

func scanLimits(e *env) {
	e.openView(view, 2)
	e.append(view, nil, part(0, "a", "b"), part(1, "c"))
	if rows, err := scanAll(e, nil, record.Offsets{2, 2}); !errors.Is(err, record.ErrOutOfRange) {
		e.Errorf("beyond the durable end: %d rows, %v", len(rows), err)
	}
	if err := e.b.Release(e.ctx, view, record.Offsets{1}); err != nil {
		e.Fatal(err)
	}
	rows, err := scanAll(e, record.Offsets{1, 0}, record.Offsets{2, 1})
	if err != nil || len(rows) != 2 {
		e.Errorf("%d rows, %v", len(rows), err)
	}
	// Who stops early is asked for nothing more.
	for range hotbuffer.Scan(e.ctx, e.b, view, record.Offsets{1, 0}, record.Offsets{2, 1}) {
		break
	}
	if err := e.b.Drop(e.ctx, view); err != nil {
		e.Fatal(err)
	}
	if _, err := scanAll(e, nil, record.Offsets{2, 1}); !errors.Is(err, record.ErrNotFound) {
		e.Errorf("of a dropped view: %v", err)
	}
}
