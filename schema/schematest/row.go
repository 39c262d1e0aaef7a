package schematest

import (
	"encoding/base64"
	"encoding/binary"
	"fmt"
	"math"
	"math/big"
	"strconv"
	"strings"
	"time"

	"github.com/go-json-experiment/json/jsontext"
	"pgregory.net/rapid"

	"github.com/thermocline/thermocline/schema"
)

// Row is one row in three forms.
type Row struct {
	// JSON is the row as schema.AvroToJSON writes it.
	JSON []byte
	// Loose is JSON for the same row as others may send it: fields in any
	// order, nulls left out, white space, escapes, numbers as strings, other
	// time zones.
	Loose []byte
	// Avro is the datum.
	Avro []byte
}

// Rows generates rows of s.
func Rows(s *schema.Schema) *rapid.Generator[Row] {
	root := &schema.Field{Type: schema.Type{Kind: schema.Struct, Fields: s.Fields}}
	return rapid.Custom(func(t *rapid.T) Row {
		v := value(t, root)
		return Row{JSON: v.json(nil), Loose: v.loose(t, nil), Avro: v.avro(nil)}
	})
}

// datum is a value with its field; v is nil for null.
type datum struct {
	f *schema.Field
	v any // bool, int64, float32, float64, *big.Int, string, []byte, []*datum, []entry
}

type entry struct {
	key string
	v   *datum
}

func value(t *rapid.T, f *schema.Field) *datum {
	d := &datum{f: f}
	if f.Nullable && rapid.IntRange(0, 3).Draw(t, "null") == 0 {
		return d
	}
	switch f.Type.Kind {
	case schema.Boolean:
		d.v = rapid.Bool().Draw(t, "bool")
	case schema.Byte:
		d.v = int64(rapid.Int8().Draw(t, "byte"))
	case schema.Short:
		d.v = int64(rapid.Int16().Draw(t, "short"))
	case schema.Integer:
		d.v = int64(rapid.Int32().Draw(t, "integer"))
	case schema.Long:
		d.v = rapid.Int64().Draw(t, "long")
	case schema.Float:
		d.v = rapid.Float32().Filter(func(f float32) bool { return !math.IsInf(float64(f), 0) && f == f }).Draw(t, "float")
	case schema.Double:
		d.v = rapid.Float64().Filter(func(f float64) bool { return !math.IsInf(f, 0) && f == f }).Draw(t, "double")
	case schema.Decimal:
		d.v = decimal(t, f.Type.Precision)
	case schema.String:
		d.v = rapid.String().Draw(t, "string")
	case schema.Binary:
		d.v = rapid.SliceOfN(rapid.Byte(), 0, 20).Draw(t, "binary")
	case schema.Date:
		d.v = rapid.Int64Range(-719_162, 2_932_896).Draw(t, "date")
	case schema.Timestamp:
		d.v = timestamp(t)
	case schema.Array:
		items := make([]*datum, rapid.IntRange(0, 5).Draw(t, "length"))
		for i := range items {
			items[i] = value(t, f.Type.Element)
		}
		d.v = items
	case schema.Map:
		keys := rapid.SliceOfNDistinct(rapid.String(), 0, 5, rapid.ID[string]).Draw(t, "keys")
		entries := make([]entry, len(keys))
		for i, k := range keys {
			entries[i] = entry{k, value(t, f.Type.Value)}
		}
		d.v = entries
	case schema.Struct:
		entries := make([]entry, len(f.Type.Fields))
		for i := range entries {
			entries[i] = entry{f.Type.Fields[i].Name, value(t, &f.Type.Fields[i])}
		}
		d.v = entries
	}
	return d
}

func decimal(t *rapid.T, precision int) *big.Int {
	digits := rapid.StringMatching(fmt.Sprintf(`-?[0-9]{1,%d}`, precision)).Draw(t, "decimal")
	v, _ := new(big.Int).SetString(digits, 10)
	return v
}

func timestamp(t *rapid.T) int64 {
	v := rapid.Int64Range(-62_135_596_800_000_000, 253_402_300_799_999_999).Draw(t, "timestamp")
	switch rapid.IntRange(0, 2).Draw(t, "unit") {
	case 0:
		return v / 1000 * 1000
	case 1:
		return v / 1_000_000 * 1_000_000
	}
	return v
}

func (d *datum) json(b []byte) []byte {
	if d.v == nil {
		return append(b, "null"...)
	}
	switch v := d.v.(type) {
	case bool:
		return strconv.AppendBool(b, v)
	case int64:
		return d.integerJSON(b, v)
	case float32:
		return jsontext.AppendFloat(b, float64(v), 32)
	case float64:
		return jsontext.AppendFloat(b, v, 64)
	case *big.Int:
		return append(b, decimalText(v, d.f.Type.Scale)...)
	case string:
		return quote(b, v)
	case []byte:
		return quote(b, base64.StdEncoding.EncodeToString(v))
	case []*datum:
		b = append(b, '[')
		for i, e := range v {
			if i > 0 {
				b = append(b, ',')
			}
			b = e.json(b)
		}
		return append(b, ']')
	case []entry:
		b = append(b, '{')
		for i, e := range v {
			if i > 0 {
				b = append(b, ',')
			}
			b = e.v.json(append(quote(b, e.key), ':'))
		}
		return append(b, '}')
	}
	panic(fmt.Sprintf("%T", d.v))
}

func quote(b []byte, s string) []byte {
	b, err := jsontext.AppendQuote(b, s)
	if err != nil {
		panic(err)
	}
	return b
}

func (d *datum) integerJSON(b []byte, v int64) []byte {
	switch d.f.Type.Kind {
	case schema.Date:
		return append(b, time.Unix(v*86400, 0).UTC().Format(`"2006-01-02"`)...)
	case schema.Timestamp:
		return append(b, time.UnixMicro(v).UTC().Format(timeLayout(v)+"Z\"")...)
	}
	return strconv.AppendInt(b, v, 10)
}

func timeLayout(micros int64) string {
	switch {
	case micros%1_000_000 == 0:
		return `"2006-01-02T15:04:05`
	case micros%1000 == 0:
		return `"2006-01-02T15:04:05.000`
	}
	return `"2006-01-02T15:04:05.000000`
}

func decimalText(v *big.Int, scale int) string {
	digits := new(big.Int).Abs(v).String()
	if len(digits) <= scale {
		digits = strings.Repeat("0", scale+1-len(digits)) + digits
	}
	if scale > 0 {
		digits = digits[:len(digits)-scale] + "." + digits[len(digits)-scale:]
	}
	if v.Sign() < 0 {
		return "-" + digits
	}
	return digits
}

// avro encodes by the specification.
func (d *datum) avro(b []byte) []byte {
	if d.f.Nullable {
		if d.v == nil {
			return append(b, 0)
		}
		b = append(b, 2)
	}
	switch v := d.v.(type) {
	case bool:
		if v {
			return append(b, 1)
		}
		return append(b, 0)
	case int64:
		return binary.AppendVarint(b, v)
	case float32:
		return binary.LittleEndian.AppendUint32(b, math.Float32bits(v))
	case float64:
		return binary.LittleEndian.AppendUint64(b, math.Float64bits(v))
	case *big.Int:
		return avroBytes(b, twosComplement(v))
	case string:
		return avroBytes(b, []byte(v))
	case []byte:
		return avroBytes(b, v)
	case []*datum:
		if len(v) > 0 {
			b = binary.AppendVarint(b, int64(len(v)))
			for _, e := range v {
				b = e.avro(b)
			}
		}
		return append(b, 0)
	case []entry:
		if d.f.Type.Kind == schema.Struct {
			for _, e := range v {
				b = e.v.avro(b)
			}
			return b
		}
		if len(v) > 0 {
			b = binary.AppendVarint(b, int64(len(v)))
			for _, e := range v {
				b = e.v.avro(avroBytes(b, []byte(e.key)))
			}
		}
		return append(b, 0)
	}
	panic(fmt.Sprintf("%T", d.v))
}

func avroBytes(b, v []byte) []byte {
	return append(binary.AppendVarint(b, int64(len(v))), v...)
}

// twosComplement is the shortest big-endian form.
func twosComplement(v *big.Int) []byte {
	n := v.BitLen()/8 + 1
	if v.Sign() < 0 && new(big.Int).Add(v, big.NewInt(1)).BitLen()/8+1 < n {
		n--
	}
	m := new(big.Int).And(v, new(big.Int).Sub(new(big.Int).Lsh(big.NewInt(1), uint(8*n)), big.NewInt(1)))
	return m.FillBytes(make([]byte, n))
}
