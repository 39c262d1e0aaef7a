package interop

import (
	"encoding/json"
	"fmt"
	"math"
	"math/big"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// schemaJSON is the schema of row, in Thermocline's form: every field type,
// nullable but for the row's number.
const schemaJSON = `{"fields":[
	{"name":"number","type":"LONG","nullable":false},
	{"name":"boolean","type":"BOOLEAN","nullable":true},
	{"name":"byte","type":"BYTE","nullable":true},
	{"name":"short","type":"SHORT","nullable":true},
	{"name":"integer","type":"INTEGER","nullable":true},
	{"name":"long","type":"LONG","nullable":true},
	{"name":"float","type":"FLOAT","nullable":true},
	{"name":"double","type":"DOUBLE","nullable":true},
	{"name":"decimal","type":"DECIMAL","precision":38,"scale":9,"nullable":true},
	{"name":"string","type":"STRING","nullable":true},
	{"name":"binary","type":"BINARY","nullable":true},
	{"name":"date","type":"DATE","nullable":true},
	{"name":"timestamp","type":"TIMESTAMP","nullable":true},
	{"name":"array","type":"ARRAY","nullable":true,"element":{"type":"STRING","nullable":true}},
	{"name":"map","type":"MAP","nullable":true,"value":{"type":"LONG","nullable":true}},
	{"name":"struct","type":"STRUCT","nullable":true,"fields":[{"name":"label","type":"STRING","nullable":false},{"name":"points","type":"ARRAY","nullable":false,"element":{"type":"STRUCT","nullable":false,"fields":[{"name":"x","type":"DOUBLE","nullable":false},{"name":"day","type":"DATE","nullable":true}]}}]}
]}`

const decimalScale = 9

// row is one row as Go values; nil is null. The tags serve hamba/avro.
type row struct {
	Number    int64              `avro:"number"`
	Boolean   *bool              `avro:"boolean"`
	Byte      *int8              `avro:"byte"`
	Short     *int16             `avro:"short"`
	Integer   *int32             `avro:"integer"`
	Long      *int64             `avro:"long"`
	Float     *float32           `avro:"float"`
	Double    *float64           `avro:"double"`
	Decimal   **big.Rat          `avro:"decimal"` // hamba/avro breaks on a nullable *big.Rat
	String    *string            `avro:"string"`
	Binary    *[]byte            `avro:"binary"`
	Date      *time.Time         `avro:"date"`
	Timestamp *time.Time         `avro:"timestamp"`
	Array     *[]*string         `avro:"array"`
	Map       *map[string]*int64 `avro:"map"`
	Struct    *nest              `avro:"struct"`
}

type nest struct {
	Label  string  `avro:"label"`
	Points []point `avro:"points"`
}

type point struct {
	X   float64    `avro:"x"`
	Day *time.Time `avro:"day"`
}

// unscaled is the integer n with d = n / 10^decimalScale.
func unscaled(d *big.Rat) *big.Int {
	n := new(big.Rat).Mul(d, new(big.Rat).SetInt(pow10(decimalScale)))
	if !n.IsInt() {
		panic(fmt.Sprintf("%s has more than %d decimals", d, decimalScale))
	}
	return n.Num()
}

func scaled(n *big.Int) *big.Rat { return new(big.Rat).SetFrac(n, pow10(decimalScale)) }

func pow10(n int64) *big.Int { return new(big.Int).Exp(big.NewInt(10), big.NewInt(n), nil) }

// sampleRows is deterministic: a row of nulls, rows of extremes, and many at
// random, numbered from first.
func sampleRows(first int64, n int) []row {
	most := new(big.Int).Sub(pow10(38), big.NewInt(1))
	text := "\x00 naïve 𝔘𝔫𝔦 \"quoted\", \\ and\nlines"
	rows := []row{
		{},
		{
			Boolean: new(false), Byte: new(int8(math.MinInt8)), Short: new(int16(math.MinInt16)),
			Integer: new(int32(math.MinInt32)), Long: new(int64(math.MinInt64)),
			Float: new(float32(-math.MaxFloat32)), Double: new(-math.MaxFloat64),
			Decimal: new(scaled(new(big.Int).Neg(most))), String: new(""), Binary: &[]byte{},
			Date:      new(time.Date(1, 1, 1, 0, 0, 0, 0, time.UTC)),
			Timestamp: new(time.Date(1, 1, 1, 0, 0, 0, 0, time.UTC)),
			Array:     &[]*string{}, Map: &map[string]*int64{}, Struct: &nest{Points: []point{}},
		},
		{
			Boolean: new(true), Byte: new(int8(math.MaxInt8)), Short: new(int16(math.MaxInt16)),
			Integer: new(int32(math.MaxInt32)), Long: new(int64(math.MaxInt64)),
			Float: new(float32(math.MaxFloat32)), Double: new(math.MaxFloat64),
			Decimal: new(scaled(most)), String: &text, Binary: &[]byte{0, 255, 128},
			Date:      new(time.Date(9999, 12, 31, 0, 0, 0, 0, time.UTC)),
			Timestamp: new(time.Date(9999, 12, 31, 23, 59, 59, 999_999_000, time.UTC)),
			Array:     &[]*string{nil, new(""), &text}, Map: &map[string]*int64{"": nil, text: new(int64(-1))},
			Struct: &nest{Label: text, Points: []point{{X: math.SmallestNonzeroFloat64}, {Day: new(time.Unix(-86400, 0).UTC())}}},
		},
		{Float: new(float32(math.SmallestNonzeroFloat32)), Double: new(0.1), Long: new(int64(1<<53 + 1))},
	}
	r := rand.New(rand.NewPCG(uint64(first), 2))
	for len(rows) < n {
		rows = append(rows, randomRow(r))
	}
	for i := range rows {
		rows[i].Number = first + int64(i)
	}
	return rows
}

func randomRow(r *rand.Rand) row {
	day := func() time.Time { return time.Unix(r.Int64N(60_000)*86400-20_000*86400, 0).UTC() }
	word := func() string { return strings.Repeat("w€", r.IntN(12)) + fmt.Sprint(r.IntN(1000)) }
	words := make([]*string, r.IntN(5))
	for i := range words {
		words[i] = maybe(r, word())
	}
	points := make([]point, r.IntN(4))
	for i := range points {
		points[i] = point{X: r.NormFloat64(), Day: maybe(r, day())}
	}
	counts := map[string]*int64{}
	for range r.IntN(4) {
		counts[word()] = maybe(r, int64(r.Uint64()))
	}
	bytes := make([]byte, r.IntN(20))
	for i := range bytes {
		bytes[i] = byte(r.Uint32())
	}
	decimal := new(big.Int).SetUint64(r.Uint64())
	decimal.Mul(decimal, big.NewInt(r.Int64N(2_000_000)-1_000_000))
	return row{
		Boolean: maybe(r, r.IntN(2) == 0), Byte: maybe(r, int8(r.Uint32())), Short: maybe(r, int16(r.Uint32())),
		Integer: maybe(r, int32(r.Uint32())), Long: maybe(r, int64(r.Uint64())),
		Float: maybe(r, float32(r.NormFloat64())), Double: maybe(r, r.NormFloat64()*1e100),
		String: maybe(r, word()), Binary: maybe(r, bytes), Date: maybe(r, day()),
		Timestamp: maybe(r, day().Add(time.Duration(r.Int64N(86_400_000_000))*time.Microsecond)),
		Array:     maybe(r, words), Map: maybe(r, counts), Struct: maybe(r, nest{Label: word(), Points: points}),
		Decimal: maybe(r, scaled(decimal)),
	}
}

// maybe is null one time in five.
func maybe[T any](r *rand.Rand, v T) *T {
	if r.IntN(5) == 0 {
		return nil
	}
	return &v
}

// compareRows fails unless got holds each row of want exactly once.
func compareRows(t *testing.T, want, got []row) {
	t.Helper()
	got = slices.Clone(got)
	slices.SortFunc(got, func(a, b row) int { return int(a.Number - b.Number) })
	if len(got) != len(want) {
		t.Errorf("%d rows, want %d", len(got), len(want))
	}
	equal := cmp.Options{
		cmp.Comparer(func(a, b *big.Rat) bool { return a.Cmp(b) == 0 }),
		cmp.Comparer(func(a, b time.Time) bool { return a.Equal(b) }),
		cmp.Comparer(func(a, b []point) bool { // nil and empty are the same list
			return slices.EqualFunc(a, b, func(a, b point) bool {
				return a.X == b.X && (a.Day == nil) == (b.Day == nil) && (a.Day == nil || a.Day.Equal(*b.Day))
			})
		}),
		cmp.Comparer(func(a, b []byte) bool { return string(a) == string(b) }),
		cmp.Comparer(func(a, b []*string) bool {
			return slices.EqualFunc(a, b, func(a, b *string) bool { return (a == nil) == (b == nil) && (a == nil || *a == *b) })
		}),
	}
	for i := range min(len(want), len(got)) {
		if diff := cmp.Diff(want[i], got[i], equal); diff != "" {
			t.Fatalf("row %d (-want +got):\n%s", want[i].Number, diff)
		}
	}
}

// jsonRow is a row as the REST interface writes it.
type jsonRow struct {
	Number    json.Number              `json:"number"`
	Boolean   *bool                    `json:"boolean"`
	Byte      *int8                    `json:"byte"`
	Short     *int16                   `json:"short"`
	Integer   *int32                   `json:"integer"`
	Long      *json.Number             `json:"long"`
	Float     *float32                 `json:"float"`
	Double    *float64                 `json:"double"`
	Decimal   *json.Number             `json:"decimal"`
	String    *string                  `json:"string"`
	Binary    *[]byte                  `json:"binary"`
	Date      *string                  `json:"date"`
	Timestamp *time.Time               `json:"timestamp"`
	Array     *[]*string               `json:"array"`
	Map       *map[string]*json.Number `json:"map"`
	Struct    *jsonNest                `json:"struct"`
}

type jsonNest struct {
	Label  string      `json:"label"`
	Points []jsonPoint `json:"points"`
}

type jsonPoint struct {
	X   float64 `json:"x"`
	Day *string `json:"day"`
}

func toJSON(t *testing.T, rows []row) []byte {
	t.Helper()
	var out []byte
	for _, r := range rows {
		j := jsonRow{
			Number: number(r.Number), Boolean: r.Boolean, Byte: r.Byte, Short: r.Short, Integer: r.Integer,
			Float: r.Float, Double: r.Double, String: r.String, Binary: r.Binary, Date: dayText(r.Date),
			Timestamp: r.Timestamp, Array: r.Array,
		}
		if r.Long != nil {
			j.Long = new(number(*r.Long))
		}
		if r.Decimal != nil {
			j.Decimal = new(json.Number((*r.Decimal).FloatString(decimalScale)))
		}
		if r.Map != nil {
			j.Map = &map[string]*json.Number{}
			for k, v := range *r.Map {
				(*j.Map)[k] = nil
				if v != nil {
					(*j.Map)[k] = new(number(*v))
				}
			}
		}
		if r.Struct != nil {
			j.Struct = &jsonNest{r.Struct.Label, []jsonPoint{}}
			for _, p := range r.Struct.Points {
				j.Struct.Points = append(j.Struct.Points, jsonPoint{p.X, dayText(p.Day)})
			}
		}
		line, err := json.Marshal(j)
		if err != nil {
			t.Fatal(err)
		}
		out = append(append(out, line...), '\n')
	}
	return out
}

func fromJSON(t *testing.T, ndjson []byte) []row {
	t.Helper()
	var rows []row
	for line := range strings.Lines(string(ndjson)) {
		var j jsonRow
		if err := json.Unmarshal([]byte(line), &j); err != nil {
			t.Fatalf("%v in %s", err, line)
		}
		r := row{
			Number: *integer(t, &j.Number), Boolean: j.Boolean, Byte: j.Byte, Short: j.Short, Integer: j.Integer,
			Long: integer(t, j.Long), Float: j.Float, Double: j.Double, String: j.String, Binary: j.Binary,
			Date: day(t, j.Date), Timestamp: j.Timestamp, Array: j.Array,
		}
		if j.Decimal != nil {
			d, ok := new(big.Rat).SetString(j.Decimal.String())
			if !ok {
				t.Fatalf("%q is not a decimal", *j.Decimal)
			}
			r.Decimal = &d
		}
		if j.Map != nil {
			r.Map = &map[string]*int64{}
			for k, v := range *j.Map {
				(*r.Map)[k] = integer(t, v)
			}
		}
		if j.Struct != nil {
			r.Struct = &nest{Label: j.Struct.Label}
			for _, p := range j.Struct.Points {
				r.Struct.Points = append(r.Struct.Points, point{p.X, day(t, p.Day)})
			}
		}
		rows = append(rows, r)
	}
	return rows
}

func number(n int64) json.Number { return json.Number(fmt.Sprint(n)) }

func integer(t *testing.T, n *json.Number) *int64 {
	t.Helper()
	if n == nil {
		return nil
	}
	v, err := n.Int64()
	if err != nil {
		t.Fatal(err)
	}
	return &v
}

func dayText(d *time.Time) *string {
	if d == nil {
		return nil
	}
	return new(d.Format(time.DateOnly))
}

func day(t *testing.T, s *string) *time.Time {
	t.Helper()
	if s == nil {
		return nil
	}
	d, err := time.Parse(time.DateOnly, *s)
	if err != nil {
		t.Fatal(err)
	}
	return &d
}

func TestRowsThroughJSON(t *testing.T) {
	t.Parallel()
	rows := sampleRows(0, 500)
	compareRows(t, rows, fromJSON(t, toJSON(t, rows)))
}
