package catalog

import (
	"encoding/json"
	"fmt"
	"slices"
	"time"

	"github.com/thermocline/thermocline/record"
	"github.com/thermocline/thermocline/schema"
)

// StreamType says what appends wait for.
type StreamType string

const (
	LowLatency     StreamType = "LOW_LATENCY"
	HighThroughput StreamType = "HIGH_THROUGHPUT"
)

// DatasetFormat is the format of the data files that the archiver writes.
type DatasetFormat string

const (
	Parquet DatasetFormat = "PARQUET"
	Avro    DatasetFormat = "AVRO"
)

// Consistency is what readers get if they do not say.
type Consistency string

const (
	AtLeastOnce Consistency = "AT_LEAST_ONCE"
	ExactlyOnce Consistency = "EXACTLY_ONCE"
)

// Limits of Settings.
const (
	DefaultArchiveInterval = 2 * time.Minute
	MinArchiveInterval     = time.Second
	MaxArchiveInterval     = 24 * time.Hour
	MaxHotRetention        = 30 * 24 * time.Hour
	MaxKeyFields           = 32
)

// Settings of a branch. Treat a Settings that came from the catalog as immutable.
type Settings struct {
	Type       StreamType `json:"type"`
	Compressed bool       `json:"compressed"`
	// Partitions may only grow, except by a reset.
	Partitions int `json:"partitions"`
	// KeyFields are the paths of the fields whose values choose the partition.
	// None: sticky round robin.
	KeyFields []string `json:"keyFields,omitempty"`
	// ArchiveInterval is the time between flushes, HotRetention the minimum
	// age of rows kept hot after they were archived. Whole milliseconds.
	ArchiveInterval time.Duration `json:"archiveIntervalNanos"`
	HotRetention    time.Duration `json:"hotRetentionNanos"`
	DatasetFormat   DatasetFormat `json:"datasetFormat"`
	Consistency     Consistency   `json:"consistency"`
	// Partitioning, SortOrder and BloomFilters lay out the data files, in the
	// text forms of schema.CompileLayout. None: files in the order of the rows.
	Partitioning []string `json:"partitioning,omitempty"`
	SortOrder    []string `json:"sortOrder,omitempty"`
	BloomFilters []string `json:"bloomFilters,omitempty"`
}

// Layout compiles the layout of data files against a schema.
func (s Settings) Layout(of *schema.Schema) (*schema.Layout, error) {
	return schema.CompileLayout(of, s.Partitioning, s.SortOrder, s.BloomFilters)
}

// WithDefaults returns s with every unset setting at its default.
func (s Settings) WithDefaults() Settings {
	if s.Type == "" {
		s.Type = LowLatency
	}
	if s.Partitions == 0 {
		s.Partitions = 1
	}
	if s.ArchiveInterval == 0 {
		s.ArchiveInterval = DefaultArchiveInterval
	}
	if s.DatasetFormat == "" {
		s.DatasetFormat = Parquet
	}
	if s.Consistency == "" {
		s.Consistency = AtLeastOnce
	}
	return s
}

// Validate checks every setting. It does not know the schema: that key fields
// exist in it and can be keys is checked by whoever compiles the key, and
// columns of the layout by Layout.
func (s Settings) Validate() error {
	if s.Type != LowLatency && s.Type != HighThroughput {
		return fmt.Errorf("%w: type %q; use %s or %s", record.ErrInvalid, clip(string(s.Type)), LowLatency, HighThroughput)
	}
	if s.Partitions < 1 || s.Partitions > record.MaxPartitions {
		return fmt.Errorf("%w: partitions %d; use 1 to %d", record.ErrInvalid, s.Partitions, record.MaxPartitions)
	}
	if len(s.KeyFields) > MaxKeyFields {
		return fmt.Errorf("%w: %d keyFields; use at most %d", record.ErrInvalid, len(s.KeyFields), MaxKeyFields)
	}
	for i, f := range s.KeyFields {
		if f == "" {
			return fmt.Errorf("%w: keyFields[%d] is empty; name a field or leave it out", record.ErrInvalid, i)
		}
		if slices.Contains(s.KeyFields[:i], f) {
			return fmt.Errorf("%w: keyFields[%d] %q is there twice; name each field once", record.ErrInvalid, i, clip(f))
		}
	}
	if err := validateInterval("archiveInterval", s.ArchiveInterval, MinArchiveInterval, MaxArchiveInterval); err != nil {
		return err
	}
	if err := validateInterval("hotRetention", s.HotRetention, 0, MaxHotRetention); err != nil {
		return err
	}
	if s.DatasetFormat != Parquet && s.DatasetFormat != Avro {
		return fmt.Errorf("%w: datasetFormat %q; use %s or %s", record.ErrInvalid, clip(string(s.DatasetFormat)), Parquet, Avro)
	}
	if s.Consistency != AtLeastOnce && s.Consistency != ExactlyOnce {
		return fmt.Errorf("%w: consistency %q; use %s or %s", record.ErrInvalid, clip(string(s.Consistency)), AtLeastOnce, ExactlyOnce)
	}
	if _, err := schema.ParseLayout(s.Partitioning, s.SortOrder, s.BloomFilters); err != nil {
		return err
	}
	return nil
}

func validateInterval(name string, d, least, most time.Duration) error {
	if d < least || d > most {
		return fmt.Errorf("%w: %s %v; use %v to %v", record.ErrInvalid, name, d, least, most)
	}
	if d%time.Millisecond != 0 {
		return fmt.Errorf("%w: %s %v is not a whole number of milliseconds", record.ErrInvalid, name, d)
	}
	return nil
}

// encode is the stored form.
func (s Settings) encode() (string, error) {
	b, err := json.Marshal(s)
	return string(b), err
}

func decodeSettings(text string) (Settings, error) {
	var s Settings
	err := json.Unmarshal([]byte(text), &s)
	if err == nil {
		err = s.Validate()
	}
	if err != nil {
		// Not wrapped: what is invalid here is not the caller's request.
		return Settings{}, fmt.Errorf("%w: stored settings: %s", record.ErrCorrupt, err.Error())
	}
	return s, nil
}
