package verify

import (
	"fmt"
	"slices"
	"strconv"

	"github.com/apache/arrow-go/v18/arrow"
	"github.com/apache/arrow-go/v18/arrow/array"

	"github.com/thermocline/thermocline/record"
	"github.com/thermocline/thermocline/schema"
)

// maxLabels bounds what is remembered of producers: each producer, each interval
// of its sequences, and each partition that it wrote to counts as one, of some
// forty bytes.
const maxLabels = 4 << 20

// labels follows the columns in which producers number their rows.
type labels struct {
	r                  *report
	view               record.ViewNumber
	producer, sequence int // columns
	byName             map[string]*sequences
	entries            int
	scratch            []byte

	names, numbers arrow.Array
}

// sequences are those of one producer.
type sequences struct {
	seen []span // ascending, neither touching nor overlapping
	last []int64
	any  []bool // last is set, by partition
	rows int64
}

// span is sequences from..to, both included: the largest has a successor that
// would not fit.
type span struct{ from, to int64 }

func newLabels(r *report, v record.ViewNumber, s *schema.Schema, q Request) (*labels, error) {
	l := &labels{r: r, view: v, byName: map[string]*sequences{}}
	l.producer, l.sequence = labelColumns(s, q)
	if l.producer < 0 {
		return nil, fmt.Errorf("the producer column %q is no STRING or integer column of view %d: %w", q.ProducerColumn, v, record.ErrInvalid)
	}
	if l.sequence < 0 {
		return nil, fmt.Errorf("the sequence column %q is no integer column of view %d: %w", q.SequenceColumn, v, record.ErrInvalid)
	}
	return l, nil
}

// labelColumns finds the columns of a request; -1 where there is none of the right
// type.
func labelColumns(s *schema.Schema, q Request) (producer, sequence int) {
	producer, sequence = -1, -1
	for i := range s.Fields {
		f := &s.Fields[i]
		whole := f.Type.Kind == schema.Byte || f.Type.Kind == schema.Short || f.Type.Kind == schema.Integer || f.Type.Kind == schema.Long
		if f.Name == q.ProducerColumn && (whole || f.Type.Kind == schema.String) {
			producer = i
		}
		if f.Name == q.SequenceColumn && whole {
			sequence = i
		}
	}
	return producer, sequence
}

// bind makes a batch the one whose rows are asked for.
func (l *labels) bind(rows arrow.RecordBatch) {
	l.names = rows.Column(l.producer)
	l.numbers = rows.Column(l.sequence)
}

// row takes row i of the bound batch. Rows without a producer or a sequence are
// not numbered.
func (l *labels) row(i int, place string, p record.Partition, o record.Offset) error {
	n, ok := whole(l.numbers, i)
	if !ok || l.numbers.IsNull(i) || l.names.IsNull(i) {
		return nil
	}
	s, err := l.of(i)
	if err != nil {
		return err
	}
	s.rows++
	l.r.sum.Sequences++
	fresh, grown := s.add(n)
	if l.entries += grown; l.entries > maxLabels {
		return l.tooMany()
	}
	if !fresh {
		l.r.row(Duplicated, place, l.view, p, o, fmt.Sprintf("producer %s gave sequence %d before", l.name(i), n))
		return nil
	}
	for int(p) >= len(s.last) {
		s.last, s.any = append(s.last, 0), append(s.any, false)
		l.entries++
	}
	if s.any[p] && n < s.last[p] {
		l.r.row(Disordered, place, l.view, p, o, fmt.Sprintf("sequence %d of producer %s stands behind %d", n, l.name(i), s.last[p]))
	}
	s.last[p], s.any[p] = n, true
	return nil
}

func (l *labels) tooMany() error {
	return fmt.Errorf("%d producers, their partitions and the intervals of their sequences are more than the %d that are remembered; are these the right columns? %w", len(l.byName), maxLabels, record.ErrTooLarge)
}

func (l *labels) of(i int) (*sequences, error) {
	l.scratch = l.scratch[:0]
	if names, ok := l.names.(array.StringLike); ok {
		l.scratch = append(l.scratch, names.Value(i)...)
	} else {
		n, _ := whole(l.names, i)
		l.scratch = strconv.AppendInt(l.scratch, n, 10)
	}
	s := l.byName[string(l.scratch)]
	if s == nil {
		// Long names count for their length.
		if l.entries += 1 + len(l.scratch)/32; l.entries > maxLabels {
			return nil, l.tooMany()
		}
		s = &sequences{}
		l.byName[string(l.scratch)] = s
		l.r.sum.Producers++
	}
	return s, nil
}

func (l *labels) name(i int) string { return strconv.Quote(clip(l.names.ValueStr(i))) }

func clip(s string) string {
	if len(s) > 80 {
		return s[:80] + "…"
	}
	return s
}

// add notes a sequence; fresh is false if it was there. grown is by how many
// intervals there are more.
func (s *sequences) add(n int64) (fresh bool, grown int) {
	// Nearly always it is the next one.
	if k := len(s.seen) - 1; k >= 0 && n > 0 && s.seen[k].to == n-1 {
		s.seen[k].to = n
		return true, 0
	}
	i, _ := slices.BinarySearchFunc(s.seen, n, func(x span, n int64) int {
		switch {
		case x.to < n:
			return -1
		case x.from > n:
			return 1
		}
		return 0
	})
	if i < len(s.seen) && s.seen[i].from <= n {
		return false, 0
	}
	left := i > 0 && s.seen[i-1].to+1 == n
	right := i < len(s.seen) && n+1 == s.seen[i].from
	switch {
	case left && right:
		s.seen[i-1].to = s.seen[i].to
		s.seen = slices.Delete(s.seen, i, i+1)
		return true, -1
	case left:
		s.seen[i-1].to = n
		return true, 0
	case right:
		s.seen[i].from = n
		return true, 0
	}
	s.seen = slices.Insert(s.seen, i, span{n, n})
	return true, 1
}

// finish tells the sequences that are missing between a producer's smallest and
// largest.
func (l *labels) finish() {
	for name, s := range l.byName {
		for i := 1; i < len(s.seen); i++ {
			from, to := s.seen[i-1].to+1, s.seen[i].from-1
			l.r.add(Finding{Code: Lost, Place: "producer " + strconv.Quote(clip(name)), View: l.view,
				Detail: fmt.Sprintf("sequences %d to %d have no row; %d to %d have", from, to, s.seen[0].from, s.seen[len(s.seen)-1].to)})
		}
	}
}
