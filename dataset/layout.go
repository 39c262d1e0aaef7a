package dataset

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/apache/iceberg-go"
	"github.com/apache/iceberg-go/table"

	"github.com/thermocline/thermocline/record"
	"github.com/thermocline/thermocline/schema"
)

// A table's layout is told three times: to other engines as the default
// partition spec, the default sort order and the properties of Bloom filters;
// and to us as a property with its canonical form, so that it is known whether a
// layout was applied, whatever engines have changed since. Specs and orders of
// before stay in the metadata, for the files that were written under them.
const (
	layoutKey      = "thermocline.layout"
	bloomKeyPrefix = "write.parquet.bloom-filter-enabled.column."
)

// HasLayout tells whether l is the layout that was applied last.
func (t *Table) HasLayout(l *schema.Layout) bool {
	have := t.Property(layoutKey)
	if have == "" {
		have = (&schema.Layout{}).String()
	}
	return have == l.String()
}

// layout makes l the table's: with a spec and an order for it, old ones where
// they say the same.
func (c *change) layout(l *schema.Layout) error {
	fail := func(err error) error {
		return fmt.Errorf("dataset: change the layout of table %s: %w", c.base.id, err)
	}
	spec, err := partitionSpec(c.schema, l)
	if err != nil {
		return fail(err)
	}
	if err := c.builder.AddPartitionSpec(&spec, false); err != nil {
		return fail(fmt.Errorf("%w: %w", err, record.ErrInvalid))
	}
	if err := c.builder.SetDefaultSpecID(-1); err != nil {
		return fail(err)
	}
	order, err := sortOrder(l)
	if err != nil {
		return fail(err)
	}
	if err := c.builder.AddSortOrder(&order); err != nil {
		return fail(fmt.Errorf("%w: %w", err, record.ErrInvalid))
	}
	if err := c.builder.SetDefaultSortOrderID(-1); err != nil {
		return fail(err)
	}
	props := iceberg.Properties{layoutKey: l.String()}
	for _, b := range l.Bloom {
		props[bloomKeyPrefix+b.Path] = "true"
	}
	var gone []string
	for key := range c.base.meta.Properties() {
		if _, keep := props[key]; !keep && strings.HasPrefix(key, bloomKeyPrefix) {
			gone = append(gone, key)
		}
	}
	slices.Sort(gone)
	if err := c.builder.RemoveProperties(gone); err != nil {
		return fail(err)
	}
	if err := c.builder.SetProperties(props); err != nil {
		return fail(err)
	}
	return nil
}

// icebergTransform is Iceberg's counterpart.
func icebergTransform(p *schema.PartitionField) iceberg.Transform {
	switch p.Transform {
	case schema.Bucket:
		return iceberg.BucketTransform{NumBuckets: p.Width}
	case schema.Truncate:
		return iceberg.TruncateTransform{Width: p.Width}
	case schema.Year:
		return iceberg.YearTransform{}
	case schema.Month:
		return iceberg.MonthTransform{}
	case schema.Day:
		return iceberg.DayTransform{}
	case schema.Hour:
		return iceberg.HourTransform{}
	}
	return iceberg.IdentityTransform{}
}

// partitionSpec is the spec of a layout, not yet numbered.
func partitionSpec(s *iceberg.Schema, l *schema.Layout) (iceberg.PartitionSpec, error) {
	if len(l.Partitioning) == 0 {
		return *iceberg.UnpartitionedSpec, nil
	}
	var options []iceberg.PartitionOption
	var used []string
	for i := range l.Partitioning {
		p := &l.Partitioning[i]
		name := layoutName(p)
		for free := name; ; free += "_p" {
			f, taken := s.FindFieldByName(free)
			if (!taken || f.ID == p.ID && p.Transform == schema.Identity) && !slices.Contains(used, free) {
				name = free
				break
			}
		}
		used = append(used, name)
		options = append(options, iceberg.AddPartitionFieldBySourceID(p.ID, name, icebergTransform(p), s, nil))
	}
	spec, err := iceberg.NewPartitionSpecOpts(options...)
	if err != nil {
		return spec, fmt.Errorf("%w: %w", err, record.ErrInvalid)
	}
	return spec, nil
}

// layoutName follows the names that engines give, in characters that are safe
// in Avro.
func layoutName(p *schema.PartitionField) string {
	name := strings.Map(func(r rune) rune {
		if r == '_' || r >= '0' && r <= '9' || r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' {
			return r
		}
		return '_'
	}, p.Path)
	if name[0] >= '0' && name[0] <= '9' {
		name = "_" + name
	}
	switch p.Transform {
	case schema.Identity:
		return name
	case schema.Bucket:
		return name + "_bucket_" + strconv.Itoa(p.Width)
	case schema.Truncate:
		return name + "_trunc_" + strconv.Itoa(p.Width)
	}
	return name + "_" + string(p.Transform)
}

// sortOrder is the order of a layout, not yet numbered.
func sortOrder(l *schema.Layout) (table.SortOrder, error) {
	if len(l.SortOrder) == 0 {
		return table.UnsortedSortOrder, nil
	}
	fields := make([]table.SortField, len(l.SortOrder))
	for i, f := range l.SortOrder {
		fields[i] = table.SortField{SourceIDs: []int{f.ID}, Transform: iceberg.IdentityTransform{}, Direction: table.SortASC, NullOrder: table.NullsFirst}
		if f.Descending {
			fields[i].Direction = table.SortDESC
		}
		if f.NullsLast {
			fields[i].NullOrder = table.NullsLast
		}
	}
	return table.NewSortOrder(1, fields)
}

// placement is under which spec, in which partition and in which order a file is
// written. The zero value: the unpartitioned spec, in the order of the rows.
type placement struct {
	spec  iceberg.PartitionSpec
	tuple map[int]any // values by partition field id
	order int         // id of the sort order, 0: none
}

// plainPlacement is that of files in the order of their rows.
func (t *Table) plainPlacement() (placement, error) {
	spec, err := unpartitioned(t.meta)
	return placement{spec: spec}, err
}

// placementOf finds the spec and the order of a layout that was applied.
func (t *Table) placementOf(l *schema.Layout) (placement, error) {
	var p placement
	found := false
	for _, s := range t.meta.PartitionSpecs() {
		if s.NumFields() != len(l.Partitioning) {
			continue
		}
		same := true
		for i := range l.Partitioning {
			f := s.Field(i)
			same = same && f.SourceID() == l.Partitioning[i].ID && f.Transform.Equals(icebergTransform(&l.Partitioning[i]))
		}
		// Engines may have added a spec that says the same: the newest counts.
		if same {
			p.spec, found = s, true
		}
	}
	if !found {
		return p, fmt.Errorf("dataset: table %s has no partition spec for the layout %s; commit the layout first: %w", t.id, l, record.ErrInvalid)
	}
	if len(l.SortOrder) == 0 {
		return p, nil
	}
	want, err := sortOrder(l)
	if err != nil {
		return p, err
	}
	for _, o := range t.meta.SortOrders() {
		same := o.Len() == want.Len()
		for i := 0; same && i < want.Len(); i++ {
			same = o.Field(i).Equals(want.Field(i))
		}
		if same {
			p.order = o.OrderID()
			return p, nil
		}
	}
	return p, fmt.Errorf("dataset: table %s has no sort order for the layout %s; commit the layout first: %w", t.id, l, record.ErrInvalid)
}
