package api

import (
	"encoding/json"
	"strconv"
	"strings"
	"time"

	"github.com/thermocline/thermocline/api/rest"
	"github.com/thermocline/thermocline/hotbuffer"
	"github.com/thermocline/thermocline/reader"
)

// Between the contract's types and ours.

func toStream(s Stream) (rest.Stream, error) {
	b, err := toBranch(s.Main)
	return rest.Stream{Name: s.Name, CreatedAt: s.CreatedAt, Main: b}, err
}

func toBranch(b Branch) (rest.Branch, error) {
	v, err := toSchemaVersion(b.Schema)
	return rest.Branch{Name: b.Name, View: int32(b.View), Schema: v, Settings: toSettings(b.Settings)}, err
}

func toSchemaVersion(v SchemaVersion) (rest.SchemaVersion, error) {
	form, err := json.Marshal(v.Schema)
	return rest.SchemaVersion{ID: v.Schema.ID, Version: v.Version, CreatedAt: v.CreatedAt, Schema: form, Avro: v.Schema.Avro()}, err
}

func toSettings(s Settings) rest.Settings {
	return rest.Settings{
		Type: rest.StreamType(s.Type), Compressed: s.Compressed, Partitions: int32(s.Partitions), KeyFields: list(s.KeyFields),
		ArchiveInterval: duration(s.ArchiveInterval), HotRetention: duration(s.HotRetention),
		DatasetFormat: rest.DatasetFormat(s.DatasetFormat), Consistency: rest.Consistency(s.Consistency),
		Partitioning: list(s.Partitioning), SortOrder: list(s.SortOrder), BloomFilters: list(s.BloomFilters),
	}
}

// list is an array in JSON also where it is empty.
func list(of []string) []string {
	if of == nil {
		return []string{}
	}
	return of
}

// duration is d without the zeros that time.Duration prints: 2m, not 2m0s.
func duration(d time.Duration) string {
	s := d.String()
	if strings.HasSuffix(s, "m0s") {
		s = s[:len(s)-2]
	}
	if strings.HasSuffix(s, "h0m") {
		s = s[:len(s)-2]
	}
	return s
}

func fromSettings(in *rest.SettingsPatch) (SettingsPatch, error) {
	var p SettingsPatch
	if in == nil {
		return p, nil
	}
	// Values are checked where they are stored; only what has another
	// form here can fail.
	p.Type = (*hotbuffer.Type)(in.Type)
	p.Compressed = in.Compressed
	if in.Partitions != nil {
		n := int(*in.Partitions)
		if n < 1 { // 0 would mean the default
			return p, invalid("settings: partitions %d: want 1 or more", n)
		}
		p.Partitions = &n
	}
	p.KeyFields = in.KeyFields
	p.DatasetFormat = (*DatasetFormat)(in.DatasetFormat)
	p.Consistency = (*reader.Consistency)(in.Consistency)
	var err error
	if p.Partitioning, err = fromLayout("partitioning", in.Partitioning); err != nil {
		return p, err
	}
	if p.SortOrder, err = fromLayout("sortOrder", in.SortOrder); err != nil {
		return p, err
	}
	if p.BloomFilters, err = fromLayout("bloomFilters", in.BloomFilters); err != nil {
		return p, err
	}
	if p.ArchiveInterval, err = fromDuration("archiveInterval", in.ArchiveInterval); err != nil {
		return p, err
	}
	if p.HotRetention, err = fromDuration("hotRetention", in.HotRetention); err != nil {
		return p, err
	}
	return p, nil
}

// fromLayout reads a list that null clears; nil if it is not there.
func fromLayout(name string, in json.RawMessage) (*[]string, error) {
	if in == nil {
		return nil, nil
	}
	out := []string(nil)
	if err := json.Unmarshal(in, &out); err != nil {
		return nil, invalid("settings: %s %.40q: want a list of texts, or null", name, string(in))
	}
	if len(out) == 0 {
		out = nil
	}
	return &out, nil
}

func fromDuration(name string, in *string) (*time.Duration, error) {
	if in == nil {
		return nil, nil
	}
	d, err := time.ParseDuration(*in)
	if err != nil || d < 0 {
		return nil, invalid("settings: %s %.40q: want a duration like 90s, 2m or 1h30m", name, *in)
	}
	return &d, nil
}

func page(limit *int, token *string) (Page, error) {
	p := Page{Size: 100}
	if limit != nil {
		p.Size = *limit
	}
	if p.Size < 1 || p.Size > 1000 {
		return p, invalid("limit %d: want 1 to 1000", p.Size)
	}
	if token != nil {
		p.Token = *token
	}
	return p, nil
}

// optional is nil for the zero value.
func optional[T comparable](v T) *T {
	var zero T
	if v == zero {
		return nil
	}
	return &v
}

func snapshotID(id int64) *string {
	if id == 0 {
		return nil
	}
	s := strconv.FormatInt(id, 10)
	return &s
}
