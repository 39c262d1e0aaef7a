package schematest

import (
	"bytes"
	"encoding/base64"
	"fmt"
	"math/big"
	"strconv"
	"time"
	"unicode/utf16"

	"pgregory.net/rapid"

	"github.com/thermocline/thermocline/schema"
)

// loose writes a datum in some way that JSON→Avro must take for the same value.
func (d *datum) loose(t *rapid.T, b []byte) []byte {
	b = append(b, rapid.SampledFrom([]string{"", "", "", " ", "\n\t"}).Draw(t, "space")...)
	if d.v == nil {
		return append(b, "null"...)
	}
	switch v := d.v.(type) {
	case int64:
		return d.looseInteger(t, b, v)
	case *big.Int:
		text := decimalText(v, d.f.Type.Scale)
		switch rapid.IntRange(0, 2).Draw(t, "decimal form") {
		case 0:
			return quote(b, text)
		case 1: // one integer and an exponent
			return fmt.Appendf(b, "%se-%d", v, d.f.Type.Scale)
		}
		return append(b, text...)
	case string:
		return looseString(t, b, v)
	case []byte:
		enc := rapid.SampledFrom([]*base64.Encoding{base64.StdEncoding, base64.RawStdEncoding, base64.URLEncoding, base64.RawURLEncoding}).Draw(t, "base64")
		return quote(b, enc.EncodeToString(v))
	case []*datum:
		b = append(b, '[')
		for i, e := range v {
			if i > 0 {
				b = append(b, " ,"[rapid.IntRange(0, 1).Draw(t, "comma"):]...)
			}
			b = e.loose(t, b)
		}
		return append(b, " ]"...)
	case []entry:
		return d.looseObject(t, b, v)
	}
	return d.json(b)
}

func (d *datum) looseInteger(t *rapid.T, b []byte, v int64) []byte {
	form := rapid.IntRange(0, 3).Draw(t, "integer form")
	switch d.f.Type.Kind {
	case schema.Date:
		if form == 0 {
			return strconv.AppendInt(b, v, 10)
		}
	case schema.Timestamp:
		switch form {
		case 0: // milliseconds, exactly
			return append(b, decimalText(big.NewInt(v), 3)...)
		case 1:
			zone := time.FixedZone("", 60*rapid.IntRange(-14*60, 14*60).Draw(t, "offset"))
			at := time.UnixMicro(v).In(zone)
			if y := at.Year(); y >= 1 && y <= 9999 {
				layout := rapid.SampledFrom([]string{`"2006-01-02T15:04:05.000000000-07:00"`, `"2006-01-02 15:04:05.000000-0700"`}).Draw(t, "layout")
				return append(b, at.Format(layout)...)
			}
		}
	default:
		switch {
		case form == 0 && d.f.Type.Kind == schema.Long:
			return append(strconv.AppendInt(append(b, '"'), v, 10), '"')
		case form == 1:
			return append(strconv.AppendInt(b, v, 10), ".0"...)
		case form == 2 && v%100 == 0:
			return append(strconv.AppendInt(b, v/100, 10), "E+2"...)
		}
	}
	return d.json(b)
}

// looseString escapes some characters that need no escape.
func looseString(t *rapid.T, b []byte, s string) []byte {
	if rapid.Bool().Draw(t, "plain") {
		return quote(b, s)
	}
	b = append(b, '"')
	for _, r := range s {
		if r >= 0x10000 {
			hi, lo := utf16.EncodeRune(r)
			b = fmt.Appendf(b, `\u%04X\u%04x`, hi, lo)
		} else {
			b = fmt.Appendf(b, `\u%04x`, r)
		}
	}
	return append(b, '"')
}

func (d *datum) looseObject(t *rapid.T, b []byte, entries []entry) []byte {
	if d.f.Type.Kind == schema.Struct {
		entries = rapid.Permutation(entries).Draw(t, "order")
	}
	b = append(b, '{')
	first := true
	for _, e := range entries {
		absent := d.f.Type.Kind == schema.Struct && (e.v.v == nil && e.v.f.Default == nil || e.v.f.Default != nil && bytes.Equal(e.v.json(nil), e.v.f.Default))
		if absent && rapid.Bool().Draw(t, "leave out") {
			continue
		}
		if !first {
			b = append(b, ',')
		}
		first = false
		b = append(b, rapid.SampledFrom([]string{"", "", " "}).Draw(t, "space")...)
		b = append(looseString(t, b, e.key), rapid.SampledFrom([]string{":", ":", " : "}).Draw(t, "colon")...)
		b = e.v.loose(t, b)
	}
	return append(b, '}')
}
