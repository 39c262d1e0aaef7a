package predicate

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"math/big"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/apache/arrow-go/v18/arrow"
	"github.com/apache/arrow-go/v18/arrow/memory"
	"pgregory.net/rapid"

	"github.com/thermocline/thermocline/schema"
)

// The oracle evaluates the parsed text row by row on plain Go values, with
// rational numbers: slowly, and without the conversions of bind.go.

// outcome of a predicate on one row.
type outcome int8

const (
	isFalse outcome = iota
	isTrue
	unknown
)

func truth(b bool) outcome {
	if b {
		return isTrue
	}
	return isFalse
}

// row maps dotted paths to values: bool, *big.Rat, string (texts and
// binaries), nil for null; a struct or array that is not null is struct{}{}.
type row map[string]any

func (r row) eval(n node, s *schema.Schema) outcome {
	switch n := n.(type) {
	case *junction:
		decides := truth(!n.all)
		out := truth(n.all)
		for _, t := range n.terms {
			switch o := r.eval(t, s); {
			case o == decides:
				return decides
			case o == unknown:
				out = unknown
			}
		}
		return out
	case *negation:
		switch r.eval(n.term, s) {
		case isTrue:
			return isFalse
		case isFalse:
			return isTrue
		}
		return unknown
	case *nullTest:
		return truth((r[strings.Join(n.column.path, ".")] == nil) != n.negated)
	case *comparison:
		return r.compare(n.column, n.op, n.value, s)
	case *membership:
		out := isFalse
		for _, v := range n.values {
			switch r.compare(n.column, eq, v, s) {
			case unknown:
				return unknown
			case isTrue:
				out = isTrue
			}
		}
		return truth((out == isTrue) != n.negated)
	}
	panic("node")
}

func (r row) compare(c columnRef, o op, l literal, s *schema.Schema) outcome {
	path := strings.Join(c.path, ".")
	f, _, _ := s.Lookup(path)
	v := r[path]
	if v == nil {
		return unknown
	}
	switch v := v.(type) {
	case bool:
		return truth((v == (l.text == "TRUE")) == (o == eq))
	case string:
		return truth(o.holds(strings.Compare(v, l.text)))
	}
	return truth(o.holds(v.(*big.Rat).Cmp(oracleLiteral(f.Type.Kind, l.text))))
}

func oracleLiteral(k schema.Kind, text string) *big.Rat {
	switch k {
	case schema.Float, schema.Double:
		f, _ := strconv.ParseFloat(text, map[schema.Kind]int{schema.Float: 32, schema.Double: 64}[k])
		if q := new(big.Rat).SetFloat64(f); q != nil {
			return q
		}
		q, _ := new(big.Rat).SetString("1e400") // an infinity
		if f < 0 {
			q.Neg(q)
		}
		return q
	case schema.Date:
		d, _ := time.Parse(time.DateOnly, text)
		return big.NewRat(d.Unix(), 86400)
	case schema.Timestamp:
		d, _ := time.Parse(time.RFC3339Nano, text)
		return new(big.Rat).Add(big.NewRat(d.Unix(), 1), big.NewRat(int64(d.Nanosecond()), 1e9))
	}
	if mantissa, _, ok := strings.Cut(text, "e-1000000"); ok {
		text = mantissa + "e-1000" // as good as the one big.Rat cannot hold
	}
	q, ok := new(big.Rat).SetString(text)
	if !ok {
		panic(text)
	}
	return q
}

const allTypes = `{"fields":[
 {"name":"flag","type":"BOOLEAN"},
 {"name":"b","type":"BYTE"},{"name":"s","type":"SHORT"},{"name":"i","type":"INTEGER"},{"name":"l","type":"LONG"},
 {"name":"f","type":"FLOAT"},{"name":"d","type":"DOUBLE"},
 {"name":"dec","type":"DECIMAL","precision":20,"scale":2},
 {"name":"text","type":"STRING"},{"name":"raw","type":"BINARY"},
 {"name":"day","type":"DATE"},{"name":"at","type":"TIMESTAMP"},
 {"name":"list","type":"ARRAY","element":{"type":"INTEGER"}},
 {"name":"in","type":"STRUCT","fields":[{"name":"my text","type":"STRING"},{"name":"deep","type":"STRUCT","fields":[{"name":"x","type":"LONG"}]}]}
]}`

func allTypesSchema(t testing.TB) *schema.Schema {
	t.Helper()
	s, err := schema.Parse([]byte(allTypes))
	if err != nil {
		t.Fatal(err)
	}
	s, _ = s.AssignIDs(0)
	return s
}

// pools are the values that rows take, few so that they meet, and literals
// around them. Literals are in the where language, values in JSON.
var pools = map[schema.Kind]struct{ values, literals []string }{
	schema.Boolean: {[]string{"true", "false"}, []string{"TRUE", "FALSE"}},
	schema.Byte:    {[]string{"-128", "0", "1", "127"}, []string{"-129", "-128", "-127.5", "0", "0.5", "1", "1e0", "127", "128", "1e30"}},
	schema.Short:   {[]string{"-32768", "7", "32767"}, []string{"-32768", "-32769", "7.0", "6.9999", "32767", "7e-1", "70e-1"}},
	schema.Integer: {[]string{"-2147483648", "-1", "0", "2147483647"}, []string{"-2147483648", "-.5", "-1", "0", "2147483647", "3e9", "-3e9"}},
	schema.Long:    {[]string{"-9223372036854775808", "-2", "-1", "9223372036854775807"}, []string{"-9223372036854775808", "-9223372036854775809", "-1.5", "-1", "9223372036854775807", "9223372036854775808", "1e100", "-1e100", "1e-100000000000000000000", "-1e-100000000000000000000"}},
	schema.Float:   {[]string{"-1.5", "0", "-0.0", "0.1", "3.4e38"}, []string{"0", "-0", "0.1", "1e39", "-1e39", "-1.5", "0.10000001"}},
	schema.Double:  {[]string{"-1.5", "0", "-0.0", "0.1", "1.7e308"}, []string{"0", "-0.0", "0.1", "-1.5", "0.10000000000000001", "1.7e308"}},
	schema.Decimal: {[]string{`"-999999999999999999.99"`, `"0"`, `"1.25"`, `"1.26"`}, []string{"-999999999999999999.99", "1.25", "1.250", "1.255", "-0.001", "0", "1e40", "-1e40", "1e38"}},
	schema.String:  {[]string{`""`, `"a"`, `"ab"`, `"b"`, `"ä"`, `"it's"`}, []string{"''", "'a'", "'ab'", "'aa'", "'ä'", "'it''s'", "'z'"}},
	schema.Binary:  {[]string{`""`, `"AA=="`, `"/w=="`}, []string{"X''", "X'00'", "X'ff'", "X'fe'"}},
	schema.Date:    {[]string{`"1969-12-31"`, `"1970-01-01"`, `"2018-02-05"`}, []string{"'1969-12-31'", "'1970-01-01'", "'2018-02-05'", "'2018-02-06'"}},
	schema.Timestamp: {[]string{`"1969-12-31T23:59:59.999999Z"`, `"2018-02-05T10:00:00Z"`, `"2018-02-05T10:00:00.000001Z"`},
		[]string{"'1969-12-31T23:59:59.999999Z'", "'1969-12-31T23:59:59.9999985Z'", "'2018-02-05T11:00:00+01:00'", "'2018-02-05T10:00:00.000000001Z'", "'2018-02-05T10:00:00.000001Z'"}},
}

// leaves are the columns of allTypes with values, by dotted path.
func leaves(s *schema.Schema) (paths []string, kinds map[string]schema.Kind) {
	kinds = map[string]schema.Kind{}
	var walk func(prefix string, fields []schema.Field)
	walk = func(prefix string, fields []schema.Field) {
		for _, f := range fields {
			if f.Type.Kind == schema.Struct {
				walk(prefix+f.Name+".", f.Type.Fields)
			} else if f.Type.Kind != schema.Array {
				paths = append(paths, prefix+f.Name)
				kinds[prefix+f.Name] = f.Type.Kind
			}
		}
	}
	walk("", s.Fields)
	return paths, kinds
}

// rowGen draws a row as JSON.
func drawRow(t *rapid.T, fields []schema.Field) string {
	var b strings.Builder
	for i, f := range fields {
		if i > 0 {
			b.WriteByte(',')
		}
		fmt.Fprintf(&b, "%q:", f.Name)
		switch {
		case rapid.IntRange(0, 4).Draw(t, "null") == 0:
			b.WriteString("null")
		case f.Type.Kind == schema.Struct:
			b.WriteString(drawRow(t, f.Type.Fields))
		case f.Type.Kind == schema.Array:
			b.WriteString("[1]")
		default:
			b.WriteString(rapid.SampledFrom(pools[f.Type.Kind].values).Draw(t, "value"))
		}
	}
	return "{" + b.String() + "}"
}

// plain is the oracle's view of a JSON row.
func plain(t testing.TB, fields []schema.Field, text string) row {
	var v map[string]any
	d := json.NewDecoder(strings.NewReader(text))
	d.UseNumber()
	if err := d.Decode(&v); err != nil {
		t.Fatal(err)
	}
	out := row{}
	plainInto(out, "", fields, v)
	return out
}

func plainInto(out row, prefix string, fields []schema.Field, v map[string]any) {
	for _, f := range fields {
		path := prefix + f.Name
		x := v[f.Name]
		switch {
		case f.Type.Kind == schema.Struct:
			m, _ := x.(map[string]any)
			if out[path] = nil; m != nil {
				out[path] = struct{}{}
			}
			plainInto(out, path+".", f.Type.Fields, m)
		case x == nil:
			out[path] = nil
		default:
			out[path] = plainLeaf(f.Type.Kind, x)
		}
	}
}

func plainLeaf(k schema.Kind, x any) any {
	switch k {
	case schema.Boolean:
		return x
	case schema.String:
		return x
	case schema.Binary:
		b, _ := base64.StdEncoding.DecodeString(x.(string))
		return string(b)
	case schema.Array:
		return struct{}{}
	case schema.Float, schema.Double, schema.Date, schema.Timestamp:
		return oracleLiteral(k, fmt.Sprint(x))
	}
	q, _ := new(big.Rat).SetString(fmt.Sprint(x))
	return q
}

// drawWhere draws a predicate.
func drawWhere(t *rapid.T, s *schema.Schema, depth int) string {
	paths, kinds := leaves(s)
	quote := func(path string) string {
		parts := strings.Split(path, ".")
		for i := range parts {
			parts[i] = quoteName(parts[i])
		}
		return strings.Join(parts, ".")
	}
	n := rapid.IntRange(0, 9).Draw(t, "form")
	if depth > 0 && n < 5 {
		switch n {
		case 0, 1:
			return "(" + drawWhere(t, s, depth-1) + " AND " + drawWhere(t, s, depth-1) + ")"
		case 2, 3:
			return "(" + drawWhere(t, s, depth-1) + " OR " + drawWhere(t, s, depth-1) + ")"
		}
		return "NOT (" + drawWhere(t, s, depth-1) + ")"
	}
	path := rapid.SampledFrom(paths).Draw(t, "column")
	literals := rapid.SampledFrom(pools[kinds[path]].literals)
	not := rapid.SampledFrom([]string{"", "NOT "}).Draw(t, "not")
	switch n {
	case 5:
		path := rapid.SampledFrom(append(paths, "list", "in", "in.deep")).Draw(t, "column")
		return quote(path) + " IS " + not + "NULL"
	case 6, 7:
		return quote(path) + " " + not + "IN (" + strings.Join(rapid.SliceOfN(literals, 1, 4).Draw(t, "list"), ", ") + ")"
	}
	symbols := []string{"=", "!=", "<", "<=", ">", ">="}
	if kinds[path] == schema.Boolean {
		symbols = symbols[:2]
	}
	return quote(path) + " " + rapid.SampledFrom(symbols).Draw(t, "op") + " " + literals.Draw(t, "literal")
}

// batch turns JSON rows into a batch in storage form, by the codecs.
func batch(t testing.TB, s *schema.Schema, rows []string) arrow.RecordBatch {
	t.Helper()
	in, err := schema.CompileJSONToAvro(s, schema.JSONOptions{})
	if err != nil {
		t.Fatal(err)
	}
	p, err := schema.CompileAvroToArrow(s, s)
	if err != nil {
		t.Fatal(err)
	}
	b := schema.NewBuilder(s, memory.DefaultAllocator)
	for _, r := range rows {
		datum, err := in.Row(nil, []byte(r))
		if err == nil {
			err = p.Append(b, datum)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	return b.NewBatch()
}
