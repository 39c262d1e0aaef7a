package reader

import (
	"context"
	"fmt"
	"slices"

	"github.com/apache/arrow-go/v18/arrow"
	"github.com/apache/arrow-go/v18/arrow/array"

	"github.com/thermocline/thermocline/record"
	"github.com/thermocline/thermocline/schema"
	"github.com/thermocline/thermocline/schema/predicate"
)

// plan is a request against a schema: which columns are scanned, which rows and
// columns come out. It belongs to one read.
type plan struct {
	scan   *schema.Schema   // needed for output or predicate; the system columns last
	out    *schema.Schema   // delivered
	arrow  *arrow.Schema    // out in storage form
	from   []int            // of each delivered column, its index in scan
	where  *predicate.Bound // nil: all rows
	parts  *partitions      // nil: all
	sel    predicate.Selection
	ours   predicate.Selection
	memory memory
	// decoder of hot rows; nil before the first.
	decoder *schema.RowDecoder
}

func newPlan(t Target, q Request) (*plan, error) {
	if q.Limit < 0 {
		return nil, fmt.Errorf("read: limit %d; leave it out for all rows: %w", q.Limit, record.ErrInvalid)
	}
	parts, err := newPartitions(q.Partitions)
	if err != nil {
		return nil, err
	}
	p := &plan{out: t.Schema, parts: parts, memory: readMemory}
	all := t.Schema.WithSystem()
	if q.Columns != nil {
		if p.out, err = all.Project(q.Columns); err != nil {
			return nil, fmt.Errorf("read: %w", err)
		}
	}
	if q.System {
		p.out = withFields(p.out, all.Fields[len(t.Schema.Fields):])
	}
	need := q.Columns
	if need == nil {
		for _, f := range t.Schema.Fields {
			need = append(need, f.Name)
		}
	}
	if q.Where != "" {
		e, err := predicate.Parse(q.Where)
		if err != nil {
			return nil, err
		}
		if p.where, err = e.Bind(all); err != nil {
			return nil, err
		}
		for _, c := range p.where.Columns() {
			need = append(slices.Clip(need), c.Path)
		}
	}
	if p.scan, err = scanSchema(t.Schema, need); err != nil {
		return nil, err
	}
	p.arrow = p.out.Arrow()
	for _, f := range p.out.Fields {
		i := slices.IndexFunc(p.scan.Fields, func(s schema.Field) bool { return s.Name == f.Name })
		if i < 0 {
			return nil, fmt.Errorf("read: column %q is delivered but not scanned", f.Name)
		}
		p.from = append(p.from, i)
	}
	return p, nil
}

// withFields appends the fields that s lacks.
func withFields(s *schema.Schema, more []schema.Field) *schema.Schema {
	c := s.Clone()
	for _, f := range more {
		if !slices.ContainsFunc(c.Fields, func(o schema.Field) bool { return o.Name == f.Name }) {
			c.Fields = append(c.Fields, f)
		}
	}
	return c
}

// scanSchema has the named columns of s, in the order of s, and the system
// columns.
func scanSchema(s *schema.Schema, need []string) (*schema.Schema, error) {
	var user []string
	for _, c := range need {
		if _, _, ok := s.Lookup(c); ok {
			user = append(user, c)
		}
	}
	scan := &schema.Schema{ID: s.ID}
	if len(user) > 0 {
		var err error
		if scan, err = s.Project(user); err != nil {
			return nil, err
		}
	}
	return scan.WithSystem(), nil
}

// apply filters and projects scanned rows, at most limit of them (0: all). It
// returns nil if no row is left, otherwise a batch that the caller releases,
// and how many scanned rows that takes care of: all, unless the limit came first.
func (p *plan) apply(ctx context.Context, rows arrow.RecordBatch, limit int64) (out arrow.RecordBatch, used int, err error) {
	used = int(rows.NumRows())
	if p.where != nil {
		if err := p.where.Filter(rows, &p.sel); err != nil {
			return nil, 0, err
		}
		if p.sel.Count() == 0 {
			return nil, used, nil
		}
	}
	out = p.project(rows)
	if p.where != nil && p.sel.Count() < used {
		all := out
		defer all.Release()
		if out, err = predicate.Select(ctx, all, &p.sel); err != nil {
			return nil, 0, err
		}
	}
	if limit == 0 || out.NumRows() < limit {
		return out, used, nil
	}
	more := out
	defer more.Release()
	used = int(limit)
	if p.where != nil {
		used = 0
		for range limit {
			used = p.sel.Next(used) + 1
		}
	}
	return more.NewSlice(0, limit), used, nil
}

func (p *plan) project(rows arrow.RecordBatch) arrow.RecordBatch {
	cols := make([]arrow.Array, len(p.from))
	for i, at := range p.from {
		cols[i] = narrow(rows.Column(at), p.arrow.Field(i).Type)
	}
	out := array.NewRecordBatch(p.arrow, cols, rows.NumRows())
	for _, c := range cols {
		c.Release()
	}
	return out
}

// narrow drops the parts of structs that were scanned for the predicate only.
func narrow(a arrow.Array, to arrow.DataType) arrow.Array {
	if arrow.TypeEqual(a.DataType(), to) {
		a.Retain()
		return a
	}
	d := narrowData(a.Data(), to)
	defer d.Release()
	return array.MakeFromData(d)
}

func narrowData(d arrow.ArrayData, to arrow.DataType) arrow.ArrayData {
	if arrow.TypeEqual(d.DataType(), to) {
		d.Retain()
		return d
	}
	var children []arrow.ArrayData
	switch to := to.(type) {
	case *arrow.StructType:
		have := d.DataType().(*arrow.StructType)
		for _, f := range to.Fields() {
			i, _ := have.FieldIdx(f.Name)
			children = append(children, narrowData(d.Children()[i], f.Type))
		}
	case *arrow.ListType:
		children = append(children, narrowData(d.Children()[0], to.Elem()))
	case *arrow.MapType:
		children = append(children, narrowData(d.Children()[0], to.Elem()))
	}
	n := array.NewData(to, d.Len(), d.Buffers(), children, d.NullN(), d.Offset())
	for _, c := range children {
		c.Release()
	}
	return n
}
