package test

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"time"
)

// errCut: a bounded read was cut off, which says nothing about its rows.
var errCut = errors.New("the read was cut off")

// readAll reads a stream from its beginning and checks what it can by itself:
// the order of the whole, offsets without gap, the content of each row, a
// producer's order, and that everything is there that was acknowledged before,
// or was read before (ends, which it moves). A read that a fault cut off gives
// errCut, and what came until then is checked all the same.
func (l *ledger) readAll(ctx context.Context, from *remote, ends []int64) (rows int64, err error) {
	promised := l.acknowledged()
	ctx, cancel := context.WithTimeout(ctx, 2*time.Minute)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, from.url+"/rows?system=true", nil)
	if err != nil {
		return 0, err
	}
	resp, err := from.http.Do(req)
	if err != nil {
		return 0, fmt.Errorf("%w: %w", errCut, err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		text, _ := io.ReadAll(resp.Body)
		if err := problemIn(resp, text); !passing(err) {
			return 0, err
		}
		return 0, fmt.Errorf("%w: %s", errCut, resp.Status)
	}
	idle := time.AfterFunc(silence, cancel)
	defer idle.Stop()
	next := make([]int64, l.partitions)
	found := make([][]bool, len(promised))
	var last tortureRow
	newest := map[string]int64{} // by producer, and partition where rows of one may be in several
	lines := bufio.NewReaderSize(resp.Body, 256<<10)
	for {
		line, err := lines.ReadBytes('\n')
		if err == io.EOF && len(line) == 0 {
			break
		}
		if err != nil {
			return rows, fmt.Errorf("%w: %w", errCut, err)
		}
		idle.Reset(silence)
		row, err := parseTortureRow(bytes.TrimSuffix(line, []byte{'\n'}))
		if err != nil {
			return rows, err
		}
		if err := l.see(&row); err != nil {
			return rows, err
		}
		if row.Offset != next[row.Partition] {
			return rows, fmt.Errorf("%s: after the rows below %d of partition %d came that at %d", l.st.name, next[row.Partition], row.Partition, row.Offset)
		}
		if before(&row, &last) {
			return rows, fmt.Errorf("%s: the row at %+v of %s came after that at %+v of %s", l.st.name, row.place, row.Timestamp, last.place, last.Timestamp)
		}
		of := row.Producer
		if !l.ordered {
			of += "/" + strconv.Itoa(row.Partition)
		}
		if was, ok := newest[of]; ok && row.Sequence <= was {
			return rows, fmt.Errorf("%s: row %d of producer %s came after its row %d", l.st.name, row.Sequence, of, was)
		}
		newest[of] = row.Sequence
		next[row.Partition]++
		if !first(found, l.producer(row.Producer), row.Sequence) {
			return rows, fmt.Errorf("%s: row %d of producer %s is there twice, again at %+v", l.st.name, row.Sequence, row.Producer, row.place)
		}
		last = row
		rows++
	}
	if n := resp.Trailer.Get("Thermocline-Rows"); n != strconv.FormatInt(rows, 10) {
		if n == "" {
			return rows, fmt.Errorf("%w: no trailer", errCut)
		}
		return rows, fmt.Errorf("%s: %d rows came, the trailer says %s", l.st.name, rows, n)
	}
	for p, end := range ends {
		if next[p] < end {
			return rows, fmt.Errorf("%s: partition %d was read up to %d before, and now up to %d", l.st.name, p, end, next[p])
		}
		ends[p] = next[p]
	}
	for p, n := range promised {
		for sequence := range n {
			if sequence >= int64(len(found[p])) || !found[p][sequence] {
				return rows, fmt.Errorf("%s: row %d of producer %d had been acknowledged, of its rows below %d, and is not there", l.st.name, sequence, p, n)
			}
		}
	}
	return rows, nil
}

// first notes a row, and tells whether it was new.
func first(found [][]bool, producer int, sequence int64) bool {
	rows := found[producer]
	for sequence >= int64(len(rows)) {
		rows = append(rows, make([]bool, len(rows)+1024)...)
	}
	found[producer] = rows
	was := rows[sequence]
	rows[sequence] = true
	return !was
}

// before tells whether a stands before b in the view's order.
func before(a, b *tortureRow) bool {
	switch {
	case b.Timestamp == "":
		return false
	case a.Timestamp != b.Timestamp:
		return len(a.Timestamp) == len(b.Timestamp) && a.Timestamp < b.Timestamp
	case a.Partition != b.Partition:
		return a.Partition < b.Partition
	}
	return a.Offset <= b.Offset
}

func (l *ledger) producer(name string) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.producers[name]
}

// batchReader reads streams in full, one after the other.
type batchReader struct {
	ledgers []*ledger
	from    []*remote
	ends    [][]int64

	whole, cut, rows int64 // for the report, when run has returned
}

func (b *batchReader) run(ctx context.Context) error {
	for i := 0; ctx.Err() == nil; i = (i + 1) % len(b.ledgers) {
		begun := time.Now()
		rows, err := b.ledgers[i].readAll(ctx, b.from[i], b.ends[i])
		switch {
		case err == nil:
			b.whole++
		case errors.Is(err, errCut):
			b.cut++
		default:
			return fmt.Errorf("batch read: %w", err)
		}
		b.rows += rows
		// The longer the stream, the less often: it should not become all that happens.
		rest(ctx, 200*time.Millisecond+min(4*time.Since(begun), 3*time.Second))
	}
	return nil
}
