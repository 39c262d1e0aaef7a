package schema

import (
	"fmt"
	"strconv"

	"github.com/thermocline/thermocline/record"
)

// ForeignAvro takes Avro data of anyone's schema, end to end as they lie in a
// container's block, and gives them out one by one in the wire form of our rows:
// null is branch 0 of a union, an enum is its symbol, fixed is bytes with their
// length, and timestamps are microseconds. Most schemas have that form already;
// then nothing is copied. It is safe for concurrent use.
type ForeignAvro struct {
	schema *Schema
	root   *foreign
}

// CompileForeignAvro compiles .avsc text that FromAvro takes.
func CompileForeignAvro(avsc []byte) (*ForeignAvro, error) {
	s, err := FromAvro(avsc)
	if err != nil {
		return nil, err
	}
	t, err := parseAvro(avsc)
	if err != nil {
		return nil, err
	}
	root, err := compileForeign("", t)
	if err != nil {
		return nil, err
	}
	return &ForeignAvro{schema: s, root: root}, nil
}

// Schema is what the data that Next returns are encoded with.
func (p *ForeignAvro) Schema() *Schema { return p.schema }

// foreign is a type as it lies on the foreign wire.
type foreign struct {
	path     string
	kind     avroKind // never avroUnion
	union    bool     // a branch number comes first
	null     int64    // its number for null, -1 if there is none
	branches int64
	size     int      // avroFixed
	decimal  bool     // avroFixed, avroBytes
	symbols  []string // avroEnum
	millis   bool     // avroLong: times 1000
	nanos    bool     // avroLong: through 1000, without remainder
	parts    []foreign
	asIs     bool // the wire form is ours, parts included
}

func compileForeign(path string, t *avroType) (*foreign, error) {
	f := &foreign{path: path, null: -1}
	inner, null, err := t.optional(path)
	if err != nil {
		return nil, err
	}
	if t.kind == avroUnion {
		f.union, f.null, f.branches = true, int64(null), int64(len(t.branches))
	}
	f.kind, f.size, f.symbols = inner.kind, inner.size, inner.symbols
	f.decimal = inner.logical == "decimal"
	if inner.kind == avroLong {
		f.millis, f.nanos = inner.logical == "timestamp-millis", inner.logical == "timestamp-nanos"
	}
	f.asIs = !f.millis && !f.nanos && f.kind != avroFixed && f.kind != avroEnum && (!f.union || f.null == 0 && f.branches == 2)
	var parts []*avroType
	var names []string
	switch inner.kind {
	case avroArray, avroMap:
		parts, names = append(parts, inner.part), append(names, "[]")
	case avroRecord:
		for i := range inner.fields {
			parts, names = append(parts, inner.fields[i].typ), append(names, inner.fields[i].name)
		}
	}
	for i, part := range parts {
		c, err := compileForeign(join(path, names[i]), part)
		if err != nil {
			return nil, err
		}
		f.parts = append(f.parts, *c)
		f.asIs = f.asIs && c.asIs
	}
	return f, nil
}

// Next splits the first datum off b. The datum is part of b where its form is
// ours, and else stands in buf, grown as needed and returned for the next call.
// A *RowError says that a value cannot be taken; rest is good and the caller
// may go on. Any other error is about the bytes (ErrInvalid) and ends it.
func (p *ForeignAvro) Next(buf, b []byte) (datum, grown, rest []byte, err error) {
	if p.root.asIs {
		i := p.root.skip(b, 0)
		if i < 0 {
			return nil, buf, nil, errForeign(b)
		}
		return b[:i:i], buf, b[i:], nil
	}
	t := transcoder{src: b, dst: buf[:0]}
	i := t.value(p.root, 0)
	if i < 0 {
		return nil, t.dst, nil, errForeign(b)
	}
	if t.err != nil {
		return nil, t.dst, b[i:], t.err
	}
	return t.dst, t.dst, b[i:], nil
}

func errForeign(b []byte) error {
	return fmt.Errorf("avro: the %d bytes from here on (% x…) are no datum of the declared schema: %w", len(b), b[:min(len(b), 8)], record.ErrInvalid)
}

// skip returns the position after a value.
func (f *foreign) skip(b []byte, i int) int {
	if f.union {
		var branch int64
		if branch, i = readLong(b, i); i < 0 || branch < 0 || branch >= f.branches {
			return bad
		}
		if branch == f.null {
			return i
		}
	}
	switch f.kind {
	case avroBoolean:
		return skipN(b, i, 1)
	case avroInt, avroLong, avroEnum:
		_, i = readLong(b, i)
	case avroFloat:
		return skipN(b, i, 4)
	case avroDouble:
		return skipN(b, i, 8)
	case avroBytes, avroString:
		_, i = readBytes(b, i)
	case avroFixed:
		return skipN(b, i, f.size)
	case avroRecord:
		for n := range f.parts {
			if i = f.parts[n].skip(b, i); i < 0 {
				return bad
			}
		}
	case avroArray, avroMap:
		for {
			count, size, next := readBlock(b, i)
			if next < 0 || count == 0 {
				return next
			}
			if i = next; size >= 0 {
				i += size
				continue
			}
			for range count {
				if f.kind == avroMap {
					if _, i = readBytes(b, i); i < 0 {
						return bad
					}
				}
				if i = f.parts[0].skip(b, i); i < 0 {
					return bad
				}
			}
		}
	default:
		return bad
	}
	return i
}

// transcoder writes our form of what it reads.
type transcoder struct {
	src, dst []byte
	err      error // the first value that cannot be taken
}

func (t *transcoder) refuse(f *foreign, expected, got, code string) {
	if t.err == nil {
		t.err = &RowError{Path: f.path, Expected: expected, Got: got, Code: code}
	}
}

func (t *transcoder) value(f *foreign, i int) int {
	if f.asIs {
		end := f.skip(t.src, i)
		if end >= 0 {
			t.dst = append(t.dst, t.src[i:end]...)
		}
		return end
	}
	if f.union {
		var branch int64
		if branch, i = readLong(t.src, i); i < 0 || branch < 0 || branch >= f.branches {
			return bad
		}
		if branch == f.null {
			t.dst = append(t.dst, 0)
			return i
		}
		if f.null >= 0 {
			t.dst = append(t.dst, 2)
		}
	}
	switch f.kind {
	case avroLong:
		return t.long(f, i)
	case avroEnum:
		n, i := readLong(t.src, i)
		if i < 0 || n < 0 || n >= int64(len(f.symbols)) {
			return bad
		}
		t.dst = append(appendLong(t.dst, int64(len(f.symbols[n]))), f.symbols[n]...)
		return i
	case avroFixed:
		end := skipN(t.src, i, f.size)
		if end < 0 {
			return bad
		}
		t.fixed(f, t.src[i:end])
		return end
	case avroRecord:
		for n := range f.parts {
			if i = t.value(&f.parts[n], i); i < 0 {
				return bad
			}
		}
		return i
	case avroArray, avroMap:
		return t.blocks(f, i)
	}
	// A kind whose bytes are ours, behind a union that is not.
	plain := *f
	plain.union = false
	end := plain.skip(t.src, i)
	if end >= 0 {
		t.dst = append(t.dst, t.src[i:end]...)
	}
	return end
}

func (t *transcoder) long(f *foreign, i int) int {
	v, i := readLong(t.src, i)
	if i < 0 {
		return bad
	}
	switch {
	case f.millis:
		if m := v * 1000; m/1000 == v {
			v = m
		} else {
			t.refuse(f, "a time in the years 1 to 9999", strconv.FormatInt(v, 10)+" ms", CodeOutOfRange)
		}
	case f.nanos:
		if v%1000 != 0 {
			t.refuse(f, "a time in whole microseconds", strconv.FormatInt(v, 10)+" ns", CodeLossy)
		}
		v /= 1000
	}
	t.dst = appendLong(t.dst, v)
	return i
}

func (t *transcoder) fixed(f *foreign, v []byte) {
	if !f.decimal {
		t.dst = append(appendLong(t.dst, int64(len(v))), v...)
		return
	}
	hi, lo, ok := parseDecimal(v)
	if !ok {
		t.refuse(f, "a decimal of at most 38 digits", fmt.Sprintf("%d bytes", len(v)), CodeOutOfRange)
	}
	t.dst = appendDecimal(t.dst, hi, lo)
}

func (t *transcoder) blocks(f *foreign, i int) int {
	for {
		count, _, next := readBlock(t.src, i)
		if next < 0 {
			return bad
		}
		i = next
		t.dst = appendLong(t.dst, int64(count))
		if count == 0 {
			return i
		}
		for range count {
			if f.kind == avroMap {
				key, next := readBytes(t.src, i)
				if next < 0 {
					return bad
				}
				t.dst = append(appendLong(t.dst, int64(len(key))), key...)
				i = next
			}
			if i = t.value(&f.parts[0], i); i < 0 {
				return bad
			}
		}
	}
}
