package test

import (
	"encoding/json"
	"fmt"
	"hash/fnv"
	"slices"
	"sync"
)

// tortureSchema: each row says who sent it as which one, and carries a checksum
// of the rest, so that a row that is not as it was sent is noticed wherever it
// is read.
const tortureSchema = `{"fields":[
	{"name":"producer","type":"STRING","nullable":false},
	{"name":"sequence","type":"LONG","nullable":false},
	{"name":"payload","type":"STRING","nullable":true},
	{"name":"sum","type":"LONG","nullable":false}
]}`

// tortureRow is a row with its place, as it is read.
type tortureRow struct {
	place
	Timestamp string `json:"_timestamp"`
	Producer  string
	Sequence  int64
	Payload   string
	Sum       int64
}

// sum is what the field of this name must hold.
func (r *tortureRow) sum() int64 {
	h := fnv.New64a()
	fmt.Fprintf(h, "%s/%d/%s", r.Producer, r.Sequence, r.Payload)
	return int64(h.Sum64() >> 1)
}

func parseTortureRow(line []byte) (r tortureRow, err error) {
	if err := json.Unmarshal(line, &r); err != nil {
		return r, fmt.Errorf("%w in %q", err, line)
	}
	if want := r.sum(); r.Sum != want {
		return r, fmt.Errorf("the row's checksum should be %d: %s", want, line)
	}
	return r, nil
}

// rowID is a producer's number and a row's sequence, plus one; 0 is none.
type rowID uint64

func newRowID(producer int, sequence int64) rowID { return rowID(producer)<<40 | rowID(sequence+1) }

// ledger is all that the test knows of one stream: what was sent and
// acknowledged, where each row lies, and what each epoch holds. Whoever sees a row
// at a place tells the ledger, and what two see there must be the same: producers
// in their answers, readers hot and cold, before and after every fault.
type ledger struct {
	st         *stream // past the proxy
	partitions int
	ordered    bool // rows of one producer are in one partition

	mu        sync.Mutex
	producers map[string]int
	sent      []int64 // rows, by producer: 0 to n-1
	acked     []int64
	places    [][]rowID // by partition and offset
	epochs    map[epochPart]epochRows
}

// epochPart is the part of an epoch that one partition has.
type epochPart struct {
	number    int64
	partition int
}

type epochRows struct {
	first int64 // offset
	rows  int64
	hash  uint64
}

func newLedger(st *stream, partitions int, ordered bool) *ledger {
	return &ledger{
		st: st, partitions: partitions, ordered: ordered,
		producers: map[string]int{}, places: make([][]rowID, partitions), epochs: map[epochPart]epochRows{},
	}
}

func (l *ledger) addProducer(name string) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	n := len(l.sent)
	l.producers[name] = n
	l.sent, l.acked = append(l.sent, 0), append(l.acked, 0)
	return n
}

// sending notes that n more rows of a producer may appear from now on.
func (l *ledger) sending(producer int, n int64) (first int64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	first = l.sent[producer]
	l.sent[producer] += n
	return first
}

// acknowledge notes where the newest n rows of a producer are.
func (l *ledger) acknowledge(producer int, n int64, answer publishAnswer) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	first := l.acked[producer]
	if len(answer.Ranges) != 1 || answer.Rows != n || answer.Ranges[0].End-answer.Ranges[0].Start != n {
		return fmt.Errorf("%s: %d rows were sent, which belong to one partition, and the answer is %+v", l.st.name, n, answer)
	}
	r := answer.Ranges[0]
	for i := range n {
		if err := l.put(place{1, r.Partition, r.Start + i}, newRowID(producer, first+i)); err != nil {
			return fmt.Errorf("the answer to a publish: %w", err)
		}
	}
	l.acked[producer] += n
	return nil
}

// see notes a row that was read.
func (l *ledger) see(r *tortureRow) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	producer, ok := l.producers[r.Producer]
	if !ok || r.Sequence < 0 || r.Sequence >= l.sent[producer] {
		return fmt.Errorf("%s: row %d of producer %q at %+v was never sent", l.st.name, r.Sequence, r.Producer, r.place)
	}
	return l.put(r.place, newRowID(producer, r.Sequence))
}

func (l *ledger) put(at place, id rowID) error {
	if at.View != 1 || at.Partition < 0 || at.Partition >= l.partitions || at.Offset < 0 || at.Offset > 1<<32 {
		return fmt.Errorf("%s: no row can have the place %+v", l.st.name, at)
	}
	known := l.places[at.Partition]
	for at.Offset >= int64(len(known)) {
		known = append(known, make([]rowID, len(known)+1024)...)
	}
	l.places[at.Partition] = known
	if before := known[at.Offset]; before != 0 && before != id {
		return fmt.Errorf("%s: at %+v is row %s, and there was row %s", l.st.name, at, id, before)
	}
	known[at.Offset] = id
	return nil
}

func (id rowID) String() string { return fmt.Sprintf("%d of producer %d", id&(1<<40-1)-1, id>>40) }

// acknowledged is how many rows of each producer are promised by now.
func (l *ledger) acknowledged() []int64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.Clone(l.acked)
}

func (l *ledger) rows() (n int64) {
	for _, rows := range l.acknowledged() {
		n += rows
	}
	return n
}

// epoch notes what partitions gave as their parts of an epoch: the same each
// time, whoever reads it, hot or cold.
func (l *ledger) epoch(number int64, partitions []int, rows []tortureRow) error {
	parts := make([]epochRows, l.partitions)
	for i := range rows {
		r, e := &rows[i], &parts[rows[i].Partition]
		if e.rows == 0 {
			e.first = r.Offset
		}
		e.rows++
		e.hash = e.hash*1_000_003 + uint64(r.Sum) //nolint:gosec // a hash
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, p := range partitions {
		at := epochPart{number, p}
		before, ok := l.epochs[at]
		if ok && before != parts[p] {
			return fmt.Errorf("%s: epoch %d has %+v of partition %d, and had %+v", l.st.name, number, parts[p], p, before)
		}
		l.epochs[at] = parts[p]
	}
	return nil
}

// table is what a consumer has made of a stream: how often it has stored each
// row. It outlives the consumer's crashes.
type table [][]uint8

func newTable(partitions int) table { return make(table, partitions) }

func (t table) store(rows []tortureRow) {
	for i := range rows {
		p, o := rows[i].Partition, rows[i].Offset
		for o >= int64(len(t[p])) {
			t[p] = append(t[p], make([]uint8, len(t[p])+1024)...)
		}
		if t[p][o] < 255 {
			t[p][o]++
		}
	}
}

// check wants each row below ends stored, and no more than once if once.
func (t table) check(ends []int64, once bool) error {
	for p, end := range ends {
		for o := range max(end, int64(len(t[p]))) {
			n := uint8(0)
			if o < int64(len(t[p])) {
				n = t[p][o]
			}
			switch {
			case o >= end && n > 0:
				return fmt.Errorf("partition %d ends at %d, and the row at %d was stored", p, end, o)
			case o < end && n == 0:
				return fmt.Errorf("partition %d: the row at %d of %d was never stored", p, o, end)
			case once && n > 1:
				return fmt.Errorf("partition %d: the row at %d was stored %d times", p, o, n)
			}
		}
	}
	return nil
}
