package dataset

import (
	"encoding/binary"
	"fmt"
	"strconv"
	"strings"

	"github.com/apache/arrow-go/v18/parquet"
	"github.com/apache/arrow-go/v18/parquet/file"
	"github.com/apache/arrow-go/v18/parquet/metadata"

	"github.com/thermocline/thermocline/schema"
	"github.com/thermocline/thermocline/schema/predicate"
)

// Bloom filters stand behind the row groups of a Parquet file, one for each column
// chunk of the columns that the layout names. They take the smallest of some sizes
// in which one value of a hundred is taken for one that is there by mistake.
const (
	bloomBytes      = 1 << 20
	bloomMistakes   = 0.01
	bloomCandidates = 6
)

// bloomProperties are the writer's, for the columns of rows of s.
func (t *Table) bloomProperties(s *schema.Schema) []parquet.WriterProperty {
	parts := strings.Split(t.Property(layoutKey), "|")
	if len(parts) != 3 {
		return nil
	}
	var out []parquet.WriterProperty
	for text := range strings.SplitSeq(parts[2], ";") {
		id, err := strconv.Atoi(text)
		if err != nil {
			continue
		}
		path := columnPath(s.Fields, id)
		if path == "" {
			continue // the column was dropped
		}
		out = append(out, parquet.WithBloomFilterEnabledFor(path, true), parquet.WithBloomFilterFPPFor(path, bloomMistakes),
			parquet.WithAdaptiveBloomFilterEnabledFor(path, true), parquet.WithBloomFilterCandidatesFor(path, bloomCandidates))
	}
	if len(out) > 0 {
		out = append(out, parquet.WithMaxBloomFilterBytes(bloomBytes))
	}
	return out
}

// columnPath is the path of a column in a Parquet file, "" if there is none.
func columnPath(fields []schema.Field, id int) string {
	for i := range fields {
		f := &fields[i]
		if f.ID == id {
			return f.Name
		}
		if f.Type.Kind == schema.Struct {
			if in := columnPath(f.Type.Fields, id); in != "" {
				return f.Name + "." + in
			}
		}
	}
	return ""
}

// bloom asks the Bloom filters of a row group; nil if there is nothing to ask. What
// goes wrong is told in failed, and every value may be there then.
func (s *scanner) bloom(pf *file.Reader, rg int, cols columnChoice, failed *error) func(id int, v predicate.Value) bool {
	if s.o.Filter == nil {
		return nil
	}
	filters := map[int]metadata.BloomFilter{}
	return func(id int, v predicate.Value) bool {
		at, ok := cols.leaves[id]
		if !ok || *failed != nil {
			return true
		}
		filter, known := filters[at]
		if !known {
			if filter, *failed = readBloom(pf, rg, at); *failed != nil {
				return true
			}
			filters[at] = filter
		}
		if filter == nil {
			return true
		}
		plain, ok := plainValue(pf, at, s.filterColumns[id].Type, v)
		return !ok || filter.CheckHash(filter.Hasher().Sum64(plain))
	}
}

// readBloom reads the filter of a column chunk, nil if it has none.
func readBloom(pf *file.Reader, rg, column int) (f metadata.BloomFilter, err error) {
	defer guard(&err)
	group, err := pf.GetBloomFilterReader().RowGroup(rg)
	if err != nil {
		return nil, fmt.Errorf("read Bloom filters: %w", err)
	}
	if f, err = group.GetColumnBloomFilter(column); err != nil {
		return nil, fmt.Errorf("read a Bloom filter: %w", err)
	}
	return f, nil
}

// plainValue is a value as the filter of a column has it: in Parquet's plain form,
// without the length of texts, in the type that the file has. ok is false where the
// column cannot hold it, which bounds tell, or is of another type than we write.
func plainValue(pf *file.Reader, column int, t schema.Type, v predicate.Value) (plain []byte, ok bool) {
	col := pf.MetaData().Schema.Column(column)
	n := v.Int()
	switch t.Kind {
	case schema.Byte, schema.Short, schema.Integer, schema.Long, schema.Date, schema.Timestamp:
		if !sameUnit(t.Kind, col) {
			return nil, false
		}
	case schema.Decimal:
		d := v.Decimal()
		if col.PhysicalType() == parquet.Types.FixedLenByteArray {
			var b [16]byte
			binary.BigEndian.PutUint64(b[:8], uint64(d.HighBits()))
			binary.BigEndian.PutUint64(b[8:], d.LowBits())
			length := col.TypeLength()
			return b[16-min(max(length, 0), 16):], length > 0 && length <= 16 && fits(b[:], length)
		}
		if hi := d.HighBits(); hi != int64(d.LowBits())>>63 {
			return nil, false
		}
		n = int64(d.LowBits())
	case schema.String, schema.Binary:
		return []byte(v.Text()), col.PhysicalType() == parquet.Types.ByteArray
	default:
		return nil, false
	}
	switch col.PhysicalType() {
	case parquet.Types.Int32:
		return binary.LittleEndian.AppendUint32(nil, uint32(int32(n))), int64(int32(n)) == n
	case parquet.Types.Int64:
		return binary.LittleEndian.AppendUint64(nil, uint64(n)), true
	}
	return nil, false
}

// fits tells whether a number in two's complement has nothing but its sign before its
// last length bytes.
func fits(b []byte, length int) bool {
	rest := b[:len(b)-length]
	sign := byte(int8(b[len(b)-length]) >> 7)
	for _, c := range rest {
		if c != sign {
			return false
		}
	}
	return true
}
