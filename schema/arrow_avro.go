package schema

import (
	"fmt"

	"github.com/apache/arrow-go/v18/arrow"

	"github.com/thermocline/thermocline/record"
)

// ArrowOptions say how Arrow columns are matched to fields.
type ArrowOptions struct {
	// ByID is for stored batches, those of our data files and hot rows, while
	// without it the batch is taken as a client's.
	//
	// Stored columns match by the field ids in the Arrow metadata: a renamed
	// one keeps its values, and those that the schema no longer has are passed
	// over. A client's match by name: its field ids were given for another
	// table. Stored values are taken as they are, also what other engines have
	// written and we would not accept: NaN, infinities, years beyond 9999.
	ByID bool
	// UnknownFields says what happens to columns that the schema does not
	// have. It means nothing with ByID.
	UnknownFields UnknownFields
	// MaxRowBytes limits a row's Avro datum. 0: MaxRowBytes, and none that
	// matters with ByID.
	MaxRowBytes int
}

// maxArrowRow is the most that ArrowOptions.MaxRowBytes can be.
const maxArrowRow = 1 << 30

// ArrowToAvro encodes the rows of Arrow batches as Avro data. It is immutable
// and safe for concurrent use.
type ArrowToAvro struct {
	from  *arrow.Schema
	parts []plan
	limit int // of a row
}

// plan says which Arrow column becomes which field.
type plan struct {
	target *Field
	stored bool // ArrowOptions.ByID
	path   string
	column int    // among the columns or struct fields; -1: absent
	datum  []byte // absent: null or the default, with its union branch
	parts  []plan // element; key and value; fields
}

// CompileArrowToAvro compiles the encoding of batches of from as rows of s.
// Types need not be equal: whatever FromArrow maps to a type that widens to
// the field's is taken, and so are types that may hold more (int64 for BYTE,
// float64 for FLOAT, nanoseconds for TIMESTAMP, a decimal of another scale), as
// long as each value fits without loss. Fields that from lacks become null or
// their default. What cannot fit is ErrInvalid and names the column.
func CompileArrowToAvro(from *arrow.Schema, s *Schema, o ArrowOptions) (*ArrowToAvro, error) {
	switch {
	case o.MaxRowBytes == 0 && o.ByID:
		o.MaxRowBytes = maxArrowRow
	case o.MaxRowBytes == 0:
		o.MaxRowBytes = MaxRowBytes
	}
	if o.MaxRowBytes < 0 || o.MaxRowBytes > maxArrowRow || o.UnknownFields > Ignore {
		return nil, fmt.Errorf("schema: Arrow options %+v: %w", o, record.ErrInvalid)
	}
	parts, err := o.planFields("", from.Fields(), s.Fields)
	if err != nil {
		return nil, err
	}
	return &ArrowToAvro{from: from, parts: parts, limit: o.MaxRowBytes}, nil
}

func (o ArrowOptions) planFields(path string, from []arrow.Field, fields []Field) ([]plan, error) {
	used := make([]bool, len(from))
	plans := make([]plan, len(fields))
	for i := range fields {
		f := &fields[i]
		p := plan{target: f, path: join(path, f.Name), column: -1}
		for j := range from {
			if o.ByID && fieldID(from[j]) != f.ID || !o.ByID && from[j].Name != f.Name {
				continue
			}
			if p.column >= 0 {
				return nil, arrowInvalid(p.path, "is in the batch twice; remove or rename one")
			}
			p.column, used[j] = j, true
		}
		var err error
		if p.column < 0 {
			err = p.planAbsent()
		} else {
			err = o.planField(&p, from[p.column])
		}
		if err != nil {
			return nil, err
		}
		plans[i] = p
	}
	for j, u := range used {
		switch {
		case u:
		case o.ByID && fieldID(from[j]) == 0:
			return nil, arrowInvalid(join(path, from[j].Name), "has no field id (Arrow metadata %s), but columns are matched by id", FieldIDKey)
		case !o.ByID && o.UnknownFields == Reject:
			return nil, arrowInvalid(join(path, from[j].Name), "is not in the schema; leave it out, add it to the schema, or ask for unknown fields to be ignored")
		}
	}
	return plans, nil
}

func (p *plan) planAbsent() error {
	if !p.target.Nullable && p.target.Default == nil {
		return arrowInvalid(p.path, "is required, has no default, and is not in the batch")
	}
	var err error
	p.datum, err = defaultDatum(p.path, p.target)
	return err
}

func (o ArrowOptions) planField(p *plan, from arrow.Field) error {
	p.stored = o.ByID
	t := &p.target.Type
	dt := plainType(from.Type)
	if dt.ID() == arrow.NULL && p.target.Nullable {
		return nil
	}
	if !takes(t.Kind, dt) {
		return arrowInvalid(p.path, "is %s, which does not fit %s; cast it", excerpt(from.Type.String()), t)
	}
	var err error
	switch t.Kind {
	case Array:
		part := plan{target: t.Element, path: join(p.path, "element")}
		err = o.planField(&part, dt.(arrow.ListLikeType).ElemField())
		p.parts = []plan{part}
	case Map:
		key := plan{target: &Field{ID: t.KeyID, Type: Type{Kind: String}}, path: join(p.path, "key")}
		value := plan{target: t.Value, path: join(p.path, "value"), column: 1}
		m := dt.(*arrow.MapType)
		if err = o.planField(&key, m.KeyField()); err == nil {
			err = o.planField(&value, m.ItemField())
		}
		p.parts = []plan{key, value}
	case Struct:
		p.parts, err = o.planFields(p.path, dt.(*arrow.StructType).Fields(), t.Fields)
	}
	return err
}

// takes tells whether values of the Arrow type can fit the kind.
func takes(k Kind, dt arrow.DataType) bool {
	id := dt.ID()
	integer := arrow.IsInteger(id)
	switch k {
	case Boolean:
		return id == arrow.BOOL
	case Byte, Short, Integer, Long:
		return integer
	case Float, Double:
		return integer || arrow.IsFloating(id)
	case Decimal:
		d, ok := dt.(arrow.DecimalType)
		return integer || ok && d.GetScale() >= 0 && d.GetScale() <= MaxPrecision
	case String:
		return isString(dt)
	case Binary:
		switch id {
		case arrow.BINARY, arrow.LARGE_BINARY, arrow.BINARY_VIEW, arrow.FIXED_SIZE_BINARY:
			return true
		}
	case Date:
		return id == arrow.DATE32 || id == arrow.DATE64
	case Timestamp:
		return id == arrow.TIMESTAMP
	case Array:
		_, ok := dt.(arrow.ListLikeType)
		return ok && id != arrow.MAP
	case Map:
		return id == arrow.MAP
	case Struct:
		return id == arrow.STRUCT
	}
	return false
}

// arrowInvalid is an ErrInvalid about a column of a batch.
func arrowInvalid(path, format string, args ...any) error {
	return fmt.Errorf("schema: Arrow column %q %s: %w", excerpt(path), fmt.Sprintf(format, args...), record.ErrInvalid)
}
