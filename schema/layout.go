package schema

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/thermocline/thermocline/record"
)

// Layout says how the rows of data files are laid out: which file a row goes to,
// in which order rows stand in a file, and which columns have Bloom filters. The
// zero value is the plain layout: files in the order of the rows.
type Layout struct {
	Partitioning []PartitionField
	SortOrder    []SortField
	Bloom        []LayoutColumn
}

// LayoutColumn is a column that a layout names: no ARRAY, MAP or STRUCT, and in no
// ARRAY or MAP.
type LayoutColumn struct {
	Path string // dotted
	ID   int    // field id
	Type Type
}

// PartitionField is a value by which rows go to different files.
type PartitionField struct {
	LayoutColumn
	Transform Transform
	Width     int // of buckets and truncated values
}

// SortField is a column by which the rows of a file are sorted.
type SortField struct {
	LayoutColumn
	Descending bool
	NullsLast  bool
}

// Transform is one of Iceberg's partition transforms.
type Transform string

const (
	Identity Transform = "identity"
	Bucket   Transform = "bucket"
	Truncate Transform = "truncate"
	Year     Transform = "year"
	Month    Transform = "month"
	Day      Transform = "day"
	Hour     Transform = "hour"
)

// Limits of layouts.
const (
	MaxPartitionFields = 8
	MaxSortFields      = 8
	MaxBloomColumns    = 16
	MaxBuckets         = 10_000
	MaxTruncateWidth   = 1 << 20
)

// IsPlain tells whether rows stand in files in their order, all of them together.
// (Bloom filters change nothing about that.)
func (l *Layout) IsPlain() bool { return len(l.Partitioning) == 0 && len(l.SortOrder) == 0 }

// String is the canonical form in field ids: what stays the same when columns are
// renamed. Layouts with equal forms are the same layout.
func (l *Layout) String() string {
	var b strings.Builder
	for _, p := range l.Partitioning {
		b.WriteString(partitionText(p.Transform, p.Width, strconv.Itoa(p.ID)) + ";")
	}
	b.WriteByte('|')
	for _, s := range l.SortOrder {
		b.WriteString(sortText(strconv.Itoa(s.ID), s.Descending, s.NullsLast) + ";")
	}
	b.WriteByte('|')
	for _, c := range l.Bloom {
		b.WriteString(strconv.Itoa(c.ID) + ";")
	}
	return b.String()
}

func partitionText(t Transform, width int, column string) string {
	if width > 0 {
		return fmt.Sprintf("%s[%d](%s)", t, width, column)
	}
	return fmt.Sprintf("%s(%s)", t, column)
}

func sortText(column string, descending, nullsLast bool) string {
	direction, nulls := "asc", "first"
	if descending {
		direction = "desc"
	}
	if nullsLast {
		nulls = "last"
	}
	return fmt.Sprintf("%s %s nulls %s", column, direction, nulls)
}

// CompileLayout compiles a layout's text forms against the user's fields of s:
//
//	partitioning  identity(C) or C, bucket[N](C), truncate[N](C), year(C), month(C), day(C), hour(C)
//	sortOrder     C [asc | desc] [nulls first | nulls last]
//	bloom         C
//
// where C is the dotted path of a column, or _timestamp, the time of the append.
// Nulls come first in ascending and last in descending order unless told.
func CompileLayout(s *Schema, partitioning, sortOrder, bloom []string) (*Layout, error) {
	l, err := ParseLayout(partitioning, sortOrder, bloom)
	if err != nil {
		return nil, err
	}
	for i := range l.Partitioning {
		p := &l.Partitioning[i]
		if err := p.find(s, "partitioning"); err != nil {
			return nil, err
		}
		if err := p.check(); err != nil {
			return nil, err
		}
	}
	for i := range l.SortOrder {
		if err := l.SortOrder[i].find(s, "sortOrder"); err != nil {
			return nil, err
		}
	}
	for i := range l.Bloom {
		c := &l.Bloom[i]
		if err := c.find(s, "bloomFilters"); err != nil {
			return nil, err
		}
		switch c.Type.Kind {
		case Boolean, Float, Double:
			return nil, fmt.Errorf("schema: bloomFilters: column %q is %s, for which there are no Bloom filters; leave it out: %w", c.Path, c.Type, record.ErrInvalid)
		}
	}
	return l, l.checkTwice()
}

// ParseLayout reads the text forms; the columns have no ids and types yet.
func ParseLayout(partitioning, sortOrder, bloom []string) (*Layout, error) {
	l := &Layout{}
	for _, limit := range []struct {
		name     string
		is, most int
	}{
		{"partitioning", len(partitioning), MaxPartitionFields},
		{"sortOrder", len(sortOrder), MaxSortFields},
		{"bloomFilters", len(bloom), MaxBloomColumns},
	} {
		if limit.is > limit.most {
			return nil, fmt.Errorf("schema: %d entries in %s; use at most %d: %w", limit.is, limit.name, limit.most, record.ErrInvalid)
		}
	}
	for _, text := range partitioning {
		p, err := parsePartition(text)
		if err != nil {
			return nil, err
		}
		l.Partitioning = append(l.Partitioning, p)
	}
	for _, text := range sortOrder {
		f, err := parseSort(text)
		if err != nil {
			return nil, err
		}
		l.SortOrder = append(l.SortOrder, f)
	}
	for _, text := range bloom {
		c := strings.TrimSpace(text)
		if c == "" {
			return nil, fmt.Errorf("schema: bloomFilters: an entry is empty; name a column: %w", record.ErrInvalid)
		}
		l.Bloom = append(l.Bloom, LayoutColumn{Path: c})
	}
	return l, nil
}

// find resolves the column.
func (c *LayoutColumn) find(s *Schema, setting string) error {
	from := s
	if c.Path == TimestampColumn {
		from = s.WithSystem()
	}
	f, at, ok := from.Lookup(c.Path)
	if !ok {
		return fmt.Errorf("schema: %s: there is no column %q; the columns are %s, or name %s: %w", setting, excerpt(c.Path), s.columnList(), TimestampColumn, record.ErrInvalid)
	}
	fields := from.Fields
	for _, i := range at[:len(at)-1] {
		if fields[i].Type.Kind != Struct {
			return fmt.Errorf("schema: %s: column %q lies in the %s %q, where rows have many values or none; name another column: %w", setting, c.Path, fields[i].Type, fields[i].Name, record.ErrInvalid)
		}
		fields = fields[i].Type.Fields
	}
	if f.Type.Kind.Nested() {
		return fmt.Errorf("schema: %s: column %q is %s; name a column that is no ARRAY, MAP or STRUCT: %w", setting, c.Path, f.Type, record.ErrInvalid)
	}
	c.ID, c.Type = f.ID, f.Type
	return nil
}

// check makes sure that the transform takes values of the column's type.
func (p *PartitionField) check() error {
	takes := false
	switch k := p.Type.Kind; p.Transform {
	case Identity:
		takes = k != Float && k != Double
	case Bucket:
		takes = k != Float && k != Double && k != Boolean
	case Truncate:
		takes = k == Byte || k == Short || k == Integer || k == Long || k == Decimal || k == String || k == Binary
	case Year, Month, Day:
		takes = k == Date || k == Timestamp
	case Hour:
		takes = k == Timestamp
	}
	if p.Type.Kind == Decimal && p.Type.Scale == 0 && p.Transform != Bucket {
		// The library leaves a scale of 0 out of manifests, and PyIceberg needs it there.
		return fmt.Errorf("schema: partitioning: %s of %q, a DECIMAL without digits behind the point, makes tables that PyIceberg cannot read; use bucket[N](%s): %w", p.Transform, p.Path, p.Path, record.ErrInvalid)
	}
	if !takes {
		return fmt.Errorf("schema: partitioning: %s does not take %s, which %q is; choose another transform or column: %w", p.Transform, p.Type, p.Path, record.ErrInvalid)
	}
	return nil
}

// checkTwice refuses entries that say the same twice.
func (l *Layout) checkTwice() error {
	times := []Transform{Year, Month, Day, Hour}
	for i, p := range l.Partitioning {
		for _, o := range l.Partitioning[:i] {
			switch {
			case o.ID != p.ID:
			case o.Transform == p.Transform && o.Width == p.Width:
				return fmt.Errorf("schema: partitioning: %s stands there twice; name it once: %w", partitionText(p.Transform, p.Width, p.Path), record.ErrInvalid)
			case slices.Contains(times, o.Transform) && slices.Contains(times, p.Transform):
				return fmt.Errorf("schema: partitioning: %s and %s of %q are redundant; keep the finer one: %w", o.Transform, p.Transform, p.Path, record.ErrInvalid)
			}
		}
	}
	for i, s := range l.SortOrder {
		if slices.ContainsFunc(l.SortOrder[:i], func(o SortField) bool { return o.ID == s.ID }) {
			return fmt.Errorf("schema: sortOrder: column %q stands there twice; name it once: %w", s.Path, record.ErrInvalid)
		}
	}
	for i, c := range l.Bloom {
		if slices.ContainsFunc(l.Bloom[:i], func(o LayoutColumn) bool { return o.ID == c.ID }) {
			return fmt.Errorf("schema: bloomFilters: column %q stands there twice; name it once: %w", c.Path, record.ErrInvalid)
		}
	}
	return nil
}

// parsePartition reads "transform(column)", "transform[N](column)" or a column.
func parsePartition(text string) (PartitionField, error) {
	text = strings.TrimSpace(text)
	fail := func(why string) (PartitionField, error) {
		return PartitionField{}, fmt.Errorf("schema: partitioning %q: %s; write a column, or identity, bucket[N], truncate[N], year, month, day or hour with a column in parentheses: %w", excerpt(text), why, record.ErrInvalid)
	}
	head, column, ok := strings.Cut(text, "(")
	if !ok {
		if text == "" {
			return fail("it is empty")
		}
		return PartitionField{LayoutColumn: LayoutColumn{Path: text}, Transform: Identity}, nil
	}
	column, closed := strings.CutSuffix(column, ")")
	name, width, wide := strings.Cut(head, "[")
	p := PartitionField{Transform: Transform(strings.ToLower(strings.TrimSpace(name)))}
	if column = strings.TrimSpace(column); !closed || column == "" {
		return fail("the column in parentheses is missing")
	}
	p.Path = column
	most := 0
	switch p.Transform {
	case Bucket:
		most = MaxBuckets
	case Truncate:
		most = MaxTruncateWidth
	case Identity, Year, Month, Day, Hour:
	default:
		return fail("there is no such transform")
	}
	switch {
	case most == 0 && wide:
		return fail(fmt.Sprintf("%s has no width", p.Transform))
	case most > 0:
		digits, closed := strings.CutSuffix(strings.TrimSpace(width), "]")
		n, err := strconv.Atoi(digits)
		if err != nil || !closed || n < 1 || n > most {
			return fail(fmt.Sprintf("%s needs a width from 1 to %d in brackets", p.Transform, most))
		}
		p.Width = n
	}
	return p, nil
}

// parseSort reads "column [asc|desc] [nulls first|last]".
func parseSort(text string) (SortField, error) {
	fail := func(why string) (SortField, error) {
		return SortField{}, fmt.Errorf("schema: sortOrder %q: %s; write a column, then asc or desc, then nulls first or nulls last, the latter two if need be: %w", excerpt(text), why, record.ErrInvalid)
	}
	words := strings.Fields(text)
	var f SortField
	nulls := ""
	if n := len(words); n > 2 && strings.EqualFold(words[n-2], "nulls") {
		if nulls = strings.ToLower(words[n-1]); nulls != "first" && nulls != "last" {
			return fail("nulls come first or last")
		}
		words = words[:n-2]
	}
	if n := len(words); n > 1 {
		switch strings.ToLower(words[n-1]) {
		case "desc":
			f.Descending = true
			words = words[:n-1]
		case "asc":
			words = words[:n-1]
		}
	}
	if len(words) != 1 {
		return fail("one column is needed")
	}
	f.Path = words[0]
	f.NullsLast = nulls == "last" || nulls == "" && f.Descending
	return f, nil
}
