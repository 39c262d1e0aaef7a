package schema

import (
	"bytes"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"math/big"
	"runtime"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/apache/arrow-go/v18/arrow/memory"
	"github.com/twmb/avro"
	"pgregory.net/rapid"

	"github.com/thermocline/thermocline/record"
)

// theirType is a random Avro type with a field of ours that takes it.
type theirType struct {
	avsc  string
	ours  Field
	value func(t *rapid.T) theirValue
}

// theirValue is a value as twmb/avro takes it, and as our JSON.
type theirValue struct {
	v    any
	json string
	fits bool // in the field of ours
}

// theirTypes makes types; it numbers those that need a name.
type theirTypes struct{ named int }

func (g *theirTypes) name() string {
	g.named++
	return fmt.Sprintf("t%d", g.named)
}

// draw makes a type, which may be null.
func (g *theirTypes) draw(t *rapid.T, depth int) theirType {
	c := g.plain(t, depth)
	plain := c.value
	switch rapid.IntRange(0, 4).Draw(t, "union") {
	case 0:
		c.avsc = `["null",` + c.avsc + `]`
	case 1:
		c.avsc = `[` + c.avsc + `,"null"]`
	case 2:
		c.avsc = `[` + c.avsc + `]`
		return c
	default:
		c.ours.Nullable = rapid.Bool().Draw(t, "nullable here only")
		return c
	}
	c.ours.Nullable = rapid.IntRange(0, 5).Draw(t, "required here") > 0
	nullable := c.ours.Nullable
	c.value = func(t *rapid.T) theirValue {
		if rapid.IntRange(0, 3).Draw(t, "null") == 0 {
			return theirValue{nil, "null", nullable}
		}
		return plain(t)
	}
	return c
}

func (g *theirTypes) plain(t *rapid.T, depth int) theirType {
	most := 10
	if depth > 0 {
		most = 13
	}
	switch rapid.IntRange(0, most).Draw(t, "type") {
	case 0:
		return theirType{`"boolean"`, Field{Type: Type{Kind: Boolean}}, func(t *rapid.T) theirValue {
			v := rapid.Bool().Draw(t, "bool")
			return theirValue{v, strconv.FormatBool(v), true}
		}}
	case 1, 2:
		return g.integer(t)
	case 3:
		to := rapid.SampledFrom([]Kind{Float, Double}).Draw(t, "to")
		return theirType{`"float"`, Field{Type: Type{Kind: to}}, func(t *rapid.T) theirValue {
			v := float32(rapid.IntRange(-1<<20, 1<<20).Draw(t, "eighths")) / 8
			return theirValue{v, strconv.FormatFloat(float64(v), 'f', -1, 32), true}
		}}
	case 4:
		return theirType{`"double"`, Field{Type: Type{Kind: Double}}, func(t *rapid.T) theirValue {
			v := float64(rapid.IntRange(-1<<40, 1<<40).Draw(t, "eighths")) / 8
			return theirValue{v, strconv.FormatFloat(v, 'f', -1, 64), true}
		}}
	case 5:
		return theirType{`"string"`, Field{Type: Type{Kind: String}}, func(t *rapid.T) theirValue {
			v := rapid.StringMatching(`[a-zä名]{0,9}`).Draw(t, "string")
			return theirValue{v, strconv.Quote(v), true}
		}}
	case 6:
		symbols := []string{"RED", "GREEN", "_blue9"}
		return theirType{`{"type":"enum","name":"` + g.name() + `","symbols":["RED","GREEN","_blue9"]}`, Field{Type: Type{Kind: String}}, func(t *rapid.T) theirValue {
			v := rapid.SampledFrom(symbols).Draw(t, "symbol")
			return theirValue{v, strconv.Quote(v), true}
		}}
	case 7:
		return theirType{`"bytes"`, Field{Type: Type{Kind: Binary}}, func(t *rapid.T) theirValue {
			v := rapid.SliceOfN(rapid.Byte(), 0, 20).Draw(t, "bytes")
			return theirValue{v, strconv.Quote(base64.StdEncoding.EncodeToString(v)), true}
		}}
	case 8:
		return theirType{`{"type":"fixed","name":"` + g.name() + `","size":3}`, Field{Type: Type{Kind: Binary}}, func(t *rapid.T) theirValue {
			var v [3]byte
			copy(v[:], rapid.SliceOfN(rapid.Byte(), 3, 3).Draw(t, "fixed"))
			return theirValue{v, strconv.Quote(base64.StdEncoding.EncodeToString(v[:])), true}
		}}
	case 9:
		return g.decimal(t)
	case 10:
		return g.time(t)
	case 11:
		part := g.draw(t, depth-1)
		part.ours.Name = "element"
		return theirType{`{"type":"array","items":` + part.avsc + `}`, Field{Type: Type{Kind: Array, Element: &part.ours}}, func(t *rapid.T) theirValue {
			out := theirValue{[]any{}, "", true}
			for i := range rapid.IntRange(0, 3).Draw(t, "elements") {
				v := part.value(t)
				out.v = append(out.v.([]any), v.v)
				out.json += strings.Repeat(",", min(i, 1)) + v.json
				out.fits = out.fits && v.fits
			}
			out.json = "[" + out.json + "]"
			return out
		}}
	case 12:
		part := g.draw(t, depth-1)
		part.ours.Name = "value"
		return theirType{`{"type":"map","values":` + part.avsc + `}`, Field{Type: Type{Kind: Map, Value: &part.ours}}, func(t *rapid.T) theirValue {
			// One entry: twmb/avro writes the entries of a Go map in any order.
			if rapid.Bool().Draw(t, "empty") {
				return theirValue{map[string]any{}, "{}", true}
			}
			v := part.value(t)
			return theirValue{map[string]any{"kü": v.v}, `{"kü":` + v.json + `}`, v.fits}
		}}
	}
	return g.record(t, depth)
}

func (g *theirTypes) integer(t *rapid.T) theirType {
	name := rapid.SampledFrom([]string{"int", "long"}).Draw(t, "integer")
	to := rapid.SampledFrom([]Kind{Byte, Short, Integer, Long}).Draw(t, "to")
	lo, hi := intRange(to)
	return theirType{strconv.Quote(name), Field{Type: Type{Kind: to}}, func(t *rapid.T) theirValue {
		v := rapid.Int64().Draw(t, "long")
		if name == "int" {
			v = int64(int32(v))
		}
		if rapid.IntRange(0, 9).Draw(t, "make it fit") > 0 {
			v >>= 64 - (8 << min(int(to-Byte), 3))
		}
		return theirValue{v, strconv.FormatInt(v, 10), v >= lo && v <= hi}
	}}
}

func (g *theirTypes) decimal(t *rapid.T) theirType {
	scale := rapid.IntRange(0, 4).Draw(t, "scale")
	digits := rapid.IntRange(scale+1, 18).Draw(t, "precision")
	to := Type{Kind: Decimal, Scale: scale, Precision: rapid.IntRange(max(scale, digits-1, 1), 20).Draw(t, "to")}
	base := `"bytes"`
	if rapid.Bool().Draw(t, "fixed") {
		base = `"fixed","size":9,"name":"` + g.name() + `"`
	}
	avsc := fmt.Sprintf(`{"type":%s,"logicalType":"decimal","precision":%d,"scale":%d}`, base, digits, scale)
	return theirType{avsc, Field{Type: to}, func(t *rapid.T) theirValue {
		n := big.NewInt(rapid.Int64Range(-999_999_999_999_999_999, 999_999_999_999_999_999).Draw(t, "unscaled"))
		limit := new(big.Int).Exp(big.NewInt(10), big.NewInt(int64(digits)), nil)
		n.Rem(n, limit)
		room := new(big.Int).Exp(big.NewInt(10), big.NewInt(int64(to.Precision)), nil)
		text := new(big.Int).Abs(n).String()
		if scale > 0 {
			text = strings.Repeat("0", max(0, scale+1-len(text))) + text
			text = text[:len(text)-scale] + "." + text[len(text)-scale:]
		}
		if n.Sign() < 0 {
			text = "-" + text
		}
		pow := new(big.Int).Exp(big.NewInt(10), big.NewInt(int64(scale)), nil)
		return theirValue{new(big.Rat).SetFrac(n, pow), text, n.CmpAbs(room) < 0}
	}}
}

func (g *theirTypes) time(t *rapid.T) theirType {
	form := rapid.SampledFrom([]string{"date", "timestamp-millis", "timestamp-micros", "timestamp-nanos"}).Draw(t, "time")
	base, to := "long", Timestamp
	if form == "date" {
		base, to = "int", Date
	}
	unit := map[string]time.Duration{"date": 24 * time.Hour, "timestamp-millis": time.Millisecond, "timestamp-micros": time.Microsecond, "timestamp-nanos": time.Nanosecond}[form]
	return theirType{fmt.Sprintf(`{"type":%q,"logicalType":%q}`, base, form), Field{Type: Type{Kind: to}}, func(t *rapid.T) theirValue {
		at := time.Unix(rapid.Int64Range(-1_000_000_000, 4_000_000_000).Draw(t, "seconds"), rapid.Int64Range(0, 999_999_999).Draw(t, "nanos")).UTC()
		if unit == time.Nanosecond && rapid.IntRange(0, 5).Draw(t, "whole") > 0 {
			at = at.Truncate(time.Microsecond)
		}
		at = at.Truncate(unit)
		layout := "2006-01-02T15:04:05.000000Z"
		switch {
		case to == Date:
			layout = "2006-01-02"
		case at.Nanosecond() == 0:
			layout = "2006-01-02T15:04:05Z"
		case at.Nanosecond()%1_000_000 == 0:
			layout = "2006-01-02T15:04:05.000Z"
		}
		return theirValue{at, strconv.Quote(at.Format(layout)), at.Nanosecond()%1000 == 0}
	}}
}

// record makes a record whose fields are ours in another order; ours has more,
// which theirs lacks.
func (g *theirTypes) record(t *rapid.T, depth int) theirType {
	n := rapid.IntRange(1, 5).Draw(t, "fields")
	parts := make([]theirType, n)
	var avsc, ours []string
	fields := map[string]Field{}
	for i := range parts {
		parts[i] = g.draw(t, depth-1)
		name := fmt.Sprintf("f%d", i)
		parts[i].ours.Name = name
		fields[name] = parts[i].ours
		ours = append(ours, name)
		avsc = append(avsc, fmt.Sprintf(`{"name":%q,"type":%s}`, name, parts[i].avsc))
	}
	fields["more"] = Field{Name: "more", Type: Type{Kind: String}, Nullable: true}
	fields["filled"] = Field{Name: "filled", Type: Type{Kind: Long}, Default: []byte("7")}
	ours = append(ours, "more", "filled")
	f := Field{Type: Type{Kind: Struct}}
	for _, name := range rapid.Permutation(ours).Draw(t, "order") {
		f.Type.Fields = append(f.Type.Fields, fields[name])
	}
	return theirType{fmt.Sprintf(`{"type":"record","name":%q,"fields":[%s]}`, g.name(), strings.Join(avsc, ",")), f, func(t *rapid.T) theirValue {
		v := map[string]any{}
		var text []string
		fits := true
		for i, p := range parts {
			d := p.value(t)
			v[p.ours.Name] = d.v
			text = append(text, fmt.Sprintf("%q:%s", fmt.Sprintf("f%d", i), d.json))
			fits = fits && d.fits
		}
		return theirValue{v, "{" + strings.Join(text, ",") + "}", fits}
	}}
}

// longWay is what ForeignRows must agree with.
type longWay struct {
	wire    *ForeignAvro
	columns *AvroToArrow
	rows    *ArrowToAvro
	build   *Builder
}

func newLongWay(avsc string, s *Schema) (*longWay, error) {
	wire, err := CompileForeignAvro([]byte(avsc))
	if err != nil {
		return nil, err
	}
	theirs, _ := wire.Schema().FreshIDs(FirstUserID)
	w := &longWay{wire: wire, build: NewBuilder(theirs, memory.DefaultAllocator)}
	if w.columns, err = CompileAvroToArrow(theirs, theirs); err != nil {
		return nil, err
	}
	w.rows, err = CompileArrowToAvro(theirs.Arrow(), s, ArrowOptions{})
	return w, err
}

// row takes one row the long way. rest is nil if it cannot go on.
func (w *longWay) row(src []byte) (datum, rest []byte, err error) {
	datum, _, rest, err = w.wire.Next(nil, src)
	if err != nil {
		return nil, rest, err
	}
	if err := w.columns.Append(w.build, datum); err != nil {
		return nil, rest, err
	}
	batch := w.build.NewBatch()
	defer batch.Release()
	rows, err := w.rows.Bind(batch)
	if err != nil {
		return nil, rest, err
	}
	datum, err = rows.Row(nil, 0)
	return datum, rest, err
}

// agree runs a block through both ways. The straight one may leave rows to the
// long one, but never takes what that refuses, nor another value.
func agree(t fataler, direct *ForeignRows, long *longWay, block []byte) (straight int) {
	for len(block) > 0 {
		want, rest, err := long.row(block)
		out, after, ok := direct.Row([]byte("head"), block)
		switch {
		case !ok && (string(out) != "head" || len(after) != len(block)):
			t.Fatalf("a row that was not taken left %q, and %d of %d bytes", out, len(after), len(block))
		case ok && err != nil:
			t.Fatalf("% x: taken straight as % x, refused the long way: %v", block, out[4:], err)
		case ok && !bytes.Equal(out[4:], want):
			t.Fatalf("% x: straight % x, the long way % x", block, out[4:], want)
		case ok && len(after) != len(rest):
			t.Fatalf("% x: straight leaves %d bytes, the long way %d", block, len(after), len(rest))
		}
		if ok {
			straight++
		}
		if rest == nil || len(rest) == len(block) {
			return straight
		}
		block = rest
	}
	return straight
}

type fataler interface {
	Fatalf(format string, args ...any)
}

// Data of random schemas, written by another library, come out as they are in
// JSON; and the straight way gives what the long way does.
func TestForeignProperty(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		g := &theirTypes{}
		c := g.record(t, 3)
		s, _ := (&Schema{ID: 1, Fields: c.ours.Type.Fields}).AssignIDs(FirstUserID)
		if err := s.Validate(); err != nil {
			t.Fatal(err)
		}
		long, err := newLongWay(c.avsc, s)
		if err != nil {
			t.Fatalf("%s: %v", c.avsc, err)
		}
		direct := CompileForeignRows(long.wire, s, 0)
		if direct == nil {
			t.Fatalf("%s has no straight way to %s", c.avsc, s.Avro())
		}
		out, err := CompileAvroToJSON(long.wire.Schema(), long.wire.Schema(), JSONOutOptions{})
		if err != nil {
			t.Fatal(err)
		}
		theirs := avro.MustParse(c.avsc)
		var block []byte
		var values []theirValue
		for range rapid.IntRange(1, 5).Draw(t, "rows") {
			v := c.value(t)
			if block, err = theirs.AppendEncode(block, v.v); err != nil {
				t.Fatalf("%s: %v", c.avsc, err)
			}
			values = append(values, v)
		}
		good := 0
		for i, rest := 0, block; i < len(values); i++ {
			v := values[i]
			var datum []byte
			datum, _, next, err := long.wire.Next(nil, rest)
			var row *RowError
			if err != nil && (!errors.As(err, &row) || v.fits) {
				t.Fatalf("%s of %s: %v", v.json, c.avsc, err)
			}
			if err == nil {
				if text, err := out.Row(nil, datum); err != nil || string(text) != v.json {
					t.Fatalf("%s came out as %s, %v", v.json, text, err)
				}
			}
			_, _, err = long.row(rest)
			if (err == nil) != v.fits {
				t.Fatalf("%s into %s: %v", v.json, s.Avro(), err)
			}
			if rest = next; v.fits {
				good++
			}
		}
		if straight := agree(t, direct, long, block); straight != good {
			t.Fatalf("%d of %d rows of %s went straight", straight, good, c.avsc)
		}
		// Damage: both read the same, or one of them nothing.
		if len(block) > 0 {
			at := rapid.IntRange(0, len(block)-1).Draw(t, "damage")
			block[at] ^= rapid.Byte().Draw(t, "by")
			agree(t, direct, long, block[:rapid.IntRange(at, len(block)).Draw(t, "cut")])
		}
	})
}

// What differs too much has no straight way, and none is invented.
func TestForeignRowsCompile(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		theirs, ours string
		straight     bool
	}{
		{`"int"`, `"type":"LONG"`, true},
		{`"long"`, `"type":"BYTE"`, true},
		{`"int"`, `"type":"DOUBLE"`, false},
		{`"double"`, `"type":"FLOAT"`, false},
		{`"string"`, `"type":"BINARY"`, false},
		{`"bytes"`, `"type":"STRING"`, false},
		{`{"type":"int","logicalType":"date"}`, `"type":"INTEGER"`, false},
		{`"int"`, `"type":"DATE"`, false},
		{`{"type":"long","logicalType":"timestamp-micros"}`, `"type":"LONG"`, false},
		{`{"type":"bytes","logicalType":"decimal","precision":9,"scale":2}`, `"type":"DECIMAL","precision":9,"scale":3`, false},
		{`"long"`, `"type":"DECIMAL","precision":9,"scale":3`, false},
	} {
		p, err := CompileForeignAvro([]byte(`{"type":"record","name":"r","fields":[{"name":"x","type":` + c.theirs + `}]}`))
		if err != nil {
			t.Fatal(err)
		}
		s := mustParse(t, `{"fields":[{"name":"x",`+c.ours+`}]}`)
		if got := CompileForeignRows(p, s, 0) != nil; got != c.straight {
			t.Errorf("%s to %s: straight %v", c.theirs, c.ours, got)
		}
	}
	p, err := CompileForeignAvro([]byte(`{"type":"record","name":"r","fields":[{"name":"x","type":"int"},{"name":"y","type":"int"}]}`))
	if err != nil {
		t.Fatal(err)
	}
	for _, ours := range []string{`{"name":"x","type":"LONG"}`, `{"name":"x","type":"LONG"},{"name":"y","type":"LONG"},{"name":"z","type":"LONG","nullable":false}`} {
		if CompileForeignRows(p, mustParse(t, `{"fields":[`+ours+`]}`), 0) != nil {
			t.Errorf("a field too many, or one missing, in %s", ours)
		}
	}
}

// The limits of a row hold on the straight way too, before it takes memory.
func TestForeignRowsLimits(t *testing.T) { //nolint:paralleltest // it looks at the memory that is taken
	avsc := `{"type":"record","name":"r","fields":[{"name":"x","type":{"type":"array","items":{"type":"enum","name":"e","symbols":["` + strings.Repeat("x", 200) + `"]}}}]}`
	s := mustParse(t, `{"fields":[{"name":"x","type":"ARRAY","nullable":false,"element":{"type":"STRING","nullable":false}}]}`)
	long, err := newLongWay(avsc, s)
	if err != nil {
		t.Fatal(err)
	}
	direct := CompileForeignRows(long.wire, s, 1000)
	for _, n := range []int{1, 4, 5, 1_000_000} {
		block := appendLong(nil, int64(n))
		block = append(block, make([]byte, n+1)...)
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		_, _, ok := direct.Row(nil, block)
		runtime.ReadMemStats(&after)
		if taken := after.TotalAlloc - before.TotalAlloc; ok != (n <= 4) || taken > 1<<20 {
			t.Errorf("%d elements of 200 bytes in a row of 1000: taken %v, with %d bytes of memory", n, ok, taken)
		}
	}
}

// FuzzForeignRows: the straight way takes nothing that the long way refuses, and
// nothing else than it.
func FuzzForeignRows(f *testing.F) {
	f.Add(foreignRow(f, nil))
	f.Add(append(foreignRow(f, map[string]any{"a": nil}), foreignRow(f, nil)...))
	f.Add(foreignRow(f, map[string]any{"ns": time.Unix(0, 1)}))
	p, err := CompileForeignAvro([]byte(foreignSchema))
	if err != nil {
		f.Fatal(err)
	}
	s, _ := p.Schema().FreshIDs(FirstUserID)
	long, err := newLongWay(foreignSchema, s)
	if err != nil {
		f.Fatal(err)
	}
	direct := CompileForeignRows(p, s, 0)
	f.Fuzz(func(t *testing.T, block []byte) { agree(t, direct, long, block) })
}

// Blocks that say their size in bytes, wrongly, are not taken straight.
func TestForeignRowsBlockSizes(t *testing.T) {
	t.Parallel()
	avsc := `{"type":"record","name":"r","fields":[{"name":"x","type":{"type":"array","items":"long"}}]}`
	s := mustParse(t, `{"fields":[{"name":"x","type":"ARRAY","nullable":false,"element":{"type":"LONG","nullable":false}}]}`)
	long, err := newLongWay(avsc, s)
	if err != nil {
		t.Fatal(err)
	}
	direct := CompileForeignRows(long.wire, s, 0)
	for size := range int64(5) {
		block := binary.AppendVarint(binary.AppendVarint(nil, -2), size)
		block = append(block, 2, 4, 0, 0, 0)
		if _, _, ok := direct.Row(nil, block); ok != (size == 2) {
			t.Errorf("two bytes that are said to be %d: taken %v", size, ok)
		}
		agree(t, direct, long, block)
	}
	if _, _, err := long.row(nil); !errors.Is(err, record.ErrInvalid) {
		t.Error(err)
	}
}

// A map that has a key twice is refused, in one block or in two; one with many
// keys takes the long way.
func TestForeignRowsMapKeys(t *testing.T) {
	t.Parallel()
	avsc := `{"type":"record","name":"r","fields":[{"name":"x","type":{"type":"map","values":"boolean"}},{"name":"y","type":{"type":"map","values":"boolean"}}]}`
	s := mustParse(t, `{"fields":[{"name":"x","type":"MAP","nullable":false,"value":{"type":"BOOLEAN","nullable":false}},{"name":"y","type":"MAP","nullable":false,"value":{"type":"BOOLEAN","nullable":false}}]}`)
	long, err := newLongWay(avsc, s)
	if err != nil {
		t.Fatal(err)
	}
	direct := CompileForeignRows(long.wire, s, 0)
	entry := func(k string) string { return string(appendLong(nil, int64(len(k)))) + k + "\x01" }
	var many strings.Builder
	for i := range 17 {
		many.WriteString(entry(fmt.Sprint(i)))
	}
	for block, straight := range map[string]bool{
		"\x04" + entry("a") + entry("b") + "\x00" + "\x02" + entry("a") + "\x00": true,
		"\x04" + entry("a") + entry("a") + "\x00\x00":                            false,
		"\x02" + entry("a") + "\x02" + entry("a") + "\x00\x00":                   false,
		"\x02" + entry("a") + "\x02" + entry("b") + "\x00\x00":                   true,
		"\x02" + entry("\xff") + "\x00\x00":                                      false,
		"\x22" + many.String() + "\x00\x00":                                      false,
	} {
		if got := agree(t, direct, long, []byte(block)) == 1; got != straight {
			t.Errorf("%x: straight %v", block, got)
		}
	}
}

func BenchmarkForeignRows(b *testing.B) {
	p, err := CompileForeignAvro([]byte(foreignSchema))
	if err != nil {
		b.Fatal(err)
	}
	s, _ := p.Schema().FreshIDs(FirstUserID)
	direct := CompileForeignRows(p, s, 0)
	row := foreignRow(b, nil)
	var dst []byte
	b.ReportAllocs()
	b.SetBytes(int64(len(row)))
	for b.Loop() {
		var ok bool
		if dst, _, ok = direct.Row(dst[:0], row); !ok {
			b.Fatal("not straight")
		}
	}
}
