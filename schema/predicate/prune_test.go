package predicate

import (
	"math/big"
	"strings"
	"testing"

	"github.com/apache/arrow-go/v18/arrow/decimal128"
	"github.com/apache/iceberg-go"
	"pgregory.net/rapid"

	"github.com/thermocline/thermocline/schema"
)

// valueOf is the oracle's plain value as a Value.
func valueOf(k schema.Kind, v any) Value {
	times := func(n int64) *big.Int {
		q := new(big.Rat).Mul(v.(*big.Rat), big.NewRat(n, 1))
		if !q.IsInt() {
			panic("not exact")
		}
		return q.Num()
	}
	switch k {
	case schema.Boolean:
		return BoolValue(v.(bool))
	case schema.String, schema.Binary:
		return BytesValue(v.(string))
	case schema.Float, schema.Double:
		f, _ := v.(*big.Rat).Float64()
		return FloatValue(f)
	case schema.Decimal:
		return DecimalValue(decimal128.FromBigInt(times(100)))
	case schema.Timestamp:
		return IntValue(times(1_000_000).Int64())
	}
	return IntValue(times(1).Int64())
}

type fileStats map[int]ColumnStats

func (f fileStats) Column(id int) (ColumnStats, bool) { c, ok := f[id]; return c, ok }

// TestMayMatchIsSafe draws rows, the statistics of a writer that knows more or
// less of them, and a predicate: when a row matches, MayMatch must say so.
func TestMayMatchIsSafe(t *testing.T) {
	t.Parallel()
	s := allTypesSchema(t)
	paths, kinds := leaves(s)
	pruned := 0
	rapid.Check(t, func(r *rapid.T) {
		rows := rapid.SliceOfN(rapid.Custom(func(r *rapid.T) string { return drawRow(r, s.Fields) }), 0, 4).Draw(r, "rows")
		stats := fileStats{}
		var plains []row
		for _, text := range rows {
			plains = append(plains, plain(t, s.Fields, text))
		}
		for _, p := range paths {
			f, _, _ := s.Lookup(p)
			c := exactStats(kinds[p], p, plains)
			switch rapid.IntRange(0, 7).Draw(r, "knows") {
			case 0:
				continue
			case 1:
				c.Min = Value{}
			case 2:
				c.Max = Value{}
			case 3:
				c.Nulls = -1
			case 4:
				c.Values = -1
			case 5: // as Iceberg truncates: down, and up
				if c.Min.class == bytes && len(c.Min.s) > 0 {
					c.Min.s = c.Min.s[:len(c.Min.s)-1]
				}
				if c.Max.class == bytes && len(c.Max.s) > 1 {
					c.Max.s = c.Max.s[:len(c.Max.s)-2] + string(c.Max.s[len(c.Max.s)-2]+1)
				}
			}
			stats[f.ID] = c
		}
		where := drawWhere(r, s, 3)
		b := mustBind(t, s, where)
		e, _ := Parse(where)
		may := b.MayMatch(stats)
		for i, p := range plains {
			if p.eval(e.root, s) == isTrue && !may {
				r.Fatalf("%s is true for %s, but %v says there is none", where, rows[i], stats)
			}
		}
		if !may {
			pruned++
		}
		if !b.MayMatch(fileStats{}) && len(rows) > 0 {
			for _, p := range plains {
				if p.eval(e.root, s) == isTrue {
					r.Fatalf("%s without statistics is never true, but is for %v", where, p)
				}
			}
		}
	})
	if pruned == 0 {
		t.Error("nothing was ever pruned")
	}
}

func exactStats(k schema.Kind, path string, rows []row) ColumnStats {
	c := ColumnStats{Values: int64(len(rows))}
	for _, p := range rows {
		if p[path] == nil {
			c.Nulls++
			continue
		}
		v := valueOf(k, p[path])
		if c.Min.class == none || v.compare(c.Min) < 0 {
			c.Min = v
		}
		if c.Max.class == none || v.compare(c.Max) > 0 {
			c.Max = v
		}
	}
	return c
}

// TestMayMatchAtBounds tests predicates on the exact minimum and maximum, for
// every type, with bounds as Iceberg writes them.
func TestMayMatchAtBounds(t *testing.T) {
	t.Parallel()
	s := allTypesSchema(t)
	dec := func(v int64) iceberg.Literal {
		return iceberg.DecimalLiteral{Val: decimal128.FromI64(v), Scale: 2}
	}
	for _, c := range []struct {
		column                string
		min, max              iceberg.Literal
		least, most           string
		below, inside, beyond string
	}{
		{"b", iceberg.NewLiteral(int32(-5)), iceberg.NewLiteral(int32(7)), "-5", "7", "-6", "0", "8"},
		{"s", iceberg.NewLiteral(int32(-5)), iceberg.NewLiteral(int32(7)), "-5", "7", "-5.5", "0", "7.5"},
		{"i", iceberg.NewLiteral(int32(-5)), iceberg.NewLiteral(int32(7)), "-5.0", "7e0", "-3e9", "0", "3e9"},
		{"l", iceberg.NewLiteral(int64(-5)), iceberg.NewLiteral(int64(1) << 60), "-5", "1152921504606846976", "-1e99", "0", "1e99"},
		{"l", iceberg.NewLiteral(int32(-5)), iceberg.NewLiteral(int32(7)), "-5", "7", "-6", "0", "8"}, // was INTEGER
		{"f", iceberg.NewLiteral(float32(0.1)), iceberg.NewLiteral(float32(0.3)), "0.1", "0.3", "0", "0.2", "0.31"},
		{"d", iceberg.NewLiteral(0.1), iceberg.NewLiteral(0.3), "0.1", "0.3", "0", "0.2", "1e400"},
		{"d", iceberg.NewLiteral(float32(0.5)), iceberg.NewLiteral(float32(1.5)), "0.5", "1.5", "0", "1", "2"}, // was FLOAT
		{"dec", dec(-12345), dec(200), "-123.45", "2", "-123.451", "0", "2.001"},
		{"text", iceberg.NewLiteral("b"), iceberg.NewLiteral("ä"), "'b'", "'ä'", "'a'", "'c'", "'äa'"},
		{"raw", iceberg.NewLiteral([]byte{1}), iceberg.NewLiteral([]byte{0xff}), "X'01'", "X'FF'", "X'0000'", "X'02'", "X'FF00'"},
		{"day", iceberg.NewLiteral(iceberg.Date(-1)), iceberg.NewLiteral(iceberg.Date(17567)), "'1969-12-31'", "'2018-02-05'", "'1969-12-30'", "'2000-01-01'", "'2018-02-06'"},
		{"at", iceberg.NewLiteral(iceberg.Timestamp(-1)), iceberg.NewLiteral(iceberg.Timestamp(1)), "'1969-12-31T23:59:59.999999Z'", "'1970-01-01T00:00:00.000001Z'",
			"'1969-12-31T23:59:59.9999989Z'", "'1970-01-01'", "'1970-01-01T00:00:00.0000011Z'"},
	} {
		f, _, _ := s.Lookup(c.column)
		stats := oneColumn{Values: 2, Min: icebergValue(t, f.Type, c.min), Max: icebergValue(t, f.Type, c.max)}
		float := f.Type.Kind == schema.Float || f.Type.Kind == schema.Double
		for where, want := range map[string]bool{
			"x = " + c.least: true, "x = " + c.most: true, "x = " + c.inside: true, "x = " + c.below: false, "x = " + c.beyond: false,
			"x < " + c.least: false, "x <= " + c.least: true, "x > " + c.least: true, "x >= " + c.least: true,
			"x < " + c.most: true, "x <= " + c.most: true, "x > " + c.most: false, "x >= " + c.most: true,
			"x < " + c.below: false, "x > " + c.beyond: false, "x > " + c.below: true, "x < " + c.beyond: true,
			"NOT x >= " + c.least: float, "NOT x <= " + c.most: float, "NOT x > " + c.below: float, // a NaN
			"x IN (" + c.below + ", " + c.most + ")": true, "x IN (" + c.below + ", " + c.beyond + ")": false,
			"x != " + c.inside: true, "x IS NULL": false, "x IS NOT NULL": true,
			"x = " + c.least + " AND x = " + c.beyond: false, "x = " + c.least + " OR x = " + c.beyond: true,
		} {
			where = replaceColumn(where, c.column)
			if got := mustBind(t, s, where).MayMatch(stats); got != want {
				t.Errorf("%s may match %v: %v", where, stats, got)
			}
		}
		one := oneColumn{Values: 2, Nulls: 1, Min: stats.Min, Max: stats.Min}
		for where, want := range map[string]bool{
			"x != " + c.least: float, "x NOT IN (" + c.least + ")": float, "NOT x = " + c.least: float, "x IS NULL": true,
		} {
			where = replaceColumn(where, c.column)
			if got := mustBind(t, s, where).MayMatch(one); got != want {
				t.Errorf("%s may match %v: %v", where, one, got)
			}
		}
		nulls := oneColumn{Values: 2, Nulls: 2}
		if mustBind(t, s, replaceColumn("x != "+c.beyond+" OR NOT x = "+c.beyond, c.column)).MayMatch(nulls) {
			t.Errorf("%s: nulls match a comparison", c.column)
		}
	}
}

// replaceColumn puts the column in the place of x.
func replaceColumn(where, column string) string {
	return strings.ReplaceAll(where, "x ", column+" ")
}

func icebergValue(t testing.TB, ty schema.Type, l iceberg.Literal) Value {
	t.Helper()
	b, err := l.MarshalBinary()
	if err != nil {
		t.Fatal(err)
	}
	v := IcebergValue(ty, b)
	if v.class == none {
		t.Fatalf("%s of %s was not understood", l, ty)
	}
	return v
}

func TestIcebergValueDamaged(t *testing.T) {
	t.Parallel()
	for k := schema.Boolean; k <= schema.Struct; k++ {
		if k == schema.String || k == schema.Binary {
			continue
		}
		for _, b := range [][]byte{nil, make([]byte, 3), make([]byte, 17)} {
			if v := IcebergValue(schema.Type{Kind: k}, b); v.class != none && k != schema.Decimal {
				t.Errorf("%d bytes are a %s", len(b), k)
			}
		}
	}
}
