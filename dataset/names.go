package dataset

import (
	"slices"
	"strconv"

	"github.com/apache/arrow-go/v18/arrow"
	"github.com/apache/arrow-go/v18/parquet/metadata"
	"github.com/apache/arrow-go/v18/parquet/pqarrow"
	"github.com/apache/iceberg-go"

	"github.com/thermocline/thermocline/schema"
)

// names finds the field ids of a file's columns: in the file, or, where the
// file has none (added by another engine), by the table's name mapping.
type names struct {
	byName bool
	level  []iceberg.MappedField
}

// mapping is the table's name mapping; for one that has none, the names of its
// current schema.
func (t *Table) mapping() iceberg.NameMapping {
	if m := t.meta.NameMapping(); len(m) > 0 {
		return m
	}
	return t.Schema().NameMapping()
}

func newNames(mapping iceberg.NameMapping, meta *metadata.FileMetaData) names {
	root := meta.Schema.Root()
	for i := range root.NumFields() {
		if root.Field(i).FieldID() > 0 {
			return names{}
		}
	}
	return names{byName: true, level: mapping}
}

// id is the field id of a column, 0 if it has none.
func (n names) id(f arrow.Field) int {
	if n.byName {
		if m := n.find(f.Name); m != nil {
			return m.ID()
		}
		return 0
	}
	v, ok := f.Metadata.GetValue(schema.FieldIDKey)
	if !ok {
		return 0
	}
	id, err := strconv.Atoi(v)
	if err != nil {
		return 0
	}
	return max(id, 0)
}

func (n names) find(name string) *iceberg.MappedField {
	i := slices.IndexFunc(n.level, func(m iceberg.MappedField) bool { return slices.Contains(m.Names, name) })
	if i < 0 {
		return nil
	}
	return &n.level[i]
}

// in is the level below a column: its parts' names.
func (n names) in(name string) names {
	if !n.byName {
		return n
	}
	if m := n.find(name); m != nil {
		return names{byName: true, level: m.Fields}
	}
	return names{byName: true}
}

// columnChoice is which columns of a file a scan reads.
type columnChoice struct {
	names  names
	read   []int       // leaf columns to decode
	leaves map[int]int // field id → leaf column, of all that can have statistics
}

// chooseColumns picks the leaf columns that hold fields of want.
func chooseColumns(want *schema.Schema, m *pqarrow.SchemaManifest, n names) columnChoice {
	c := columnChoice{names: n, leaves: map[int]int{}}
	chosen := map[int]bool{}
	for i := range m.Fields {
		c.statLeaves(&m.Fields[i], n)
	}
	chooseIn(chosen, want.Fields, m.Fields, n)
	for leaf := range chosen {
		c.read = append(c.read, leaf)
	}
	slices.Sort(c.read)
	return c
}

// statLeaves notes the leaves that are not below a list or map.
func (c *columnChoice) statLeaves(f *pqarrow.SchemaField, n names) {
	if f.IsLeaf() {
		if id := n.id(*f.Field); id > 0 {
			c.leaves[id] = f.ColIndex
		}
		return
	}
	if f.Field.Type.ID() == arrow.STRUCT {
		for i := range f.Children {
			c.statLeaves(&f.Children[i], n.in(f.Field.Name))
		}
	}
}

func chooseIn(chosen map[int]bool, want []schema.Field, have []pqarrow.SchemaField, n names) {
	for i := range want {
		for j := range have {
			if n.id(*have[j].Field) == want[i].ID {
				choose(chosen, &want[i], &have[j], n.in(have[j].Field.Name))
				break
			}
		}
	}
}

// choose picks the leaves of one field; at least one, because validity and
// lengths of a group are stored with its leaves. n is the level below.
func choose(chosen map[int]bool, want *schema.Field, have *pqarrow.SchemaField, n names) {
	before := len(chosen)
	switch {
	case have.IsLeaf():
		chosen[have.ColIndex] = true
	case have.Field.Type.ID() == arrow.STRUCT:
		chooseIn(chosen, want.Type.Fields, have.Children, n)
	case have.Field.Type.ID() == arrow.MAP && want.Type.Value != nil:
		// The library reads whole maps.
		chooseAll(chosen, have)
	case want.Type.Element != nil && len(have.Children) == 1:
		choose(chosen, want.Type.Element, &have.Children[0], n.in(have.Children[0].Field.Name))
	}
	if len(chosen) == before {
		chooseFirst(chosen, have)
	}
}

func chooseAll(chosen map[int]bool, have *pqarrow.SchemaField) {
	if have.IsLeaf() {
		chosen[have.ColIndex] = true
	}
	for i := range have.Children {
		chooseAll(chosen, &have.Children[i])
	}
}

func chooseFirst(chosen map[int]bool, have *pqarrow.SchemaField) {
	for !have.IsLeaf() {
		if len(have.Children) == 0 {
			return
		}
		have = &have.Children[0]
	}
	chosen[have.ColIndex] = true
}
