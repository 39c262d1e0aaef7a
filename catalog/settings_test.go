package catalog

import (
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/thermocline/thermocline/record"
)

func TestSettingsDefaults(t *testing.T) {
	t.Parallel()
	want := Settings{
		Type: LowLatency, Partitions: 1, ArchiveInterval: 2 * time.Minute, DatasetFormat: Parquet, Consistency: AtLeastOnce,
	}
	if diff := cmp.Diff(want, Settings{}.WithDefaults()); diff != "" {
		t.Error(diff)
	}
	set := Settings{
		Type: HighThroughput, Compressed: true, Partitions: 7, KeyFields: []string{"a", "b.c"},
		ArchiveInterval: time.Hour, HotRetention: time.Minute, DatasetFormat: Avro, Consistency: ExactlyOnce,
	}
	if diff := cmp.Diff(set, set.WithDefaults()); diff != "" {
		t.Errorf("defaults change what is set: %s", diff)
	}
	text, err := set.encode()
	ok(t, err)
	back, err := decodeSettings(text)
	ok(t, err)
	if diff := cmp.Diff(set, back); diff != "" {
		t.Errorf("the stored form loses: %s", diff)
	}
}

func TestSettingsValidate(t *testing.T) {
	t.Parallel()
	for hint, spoil := range map[string]func(*Settings){
		"type":                     func(s *Settings) { s.Type = "FAST" },
		"partitions 0":             func(s *Settings) { s.Partitions = 0 },
		"partitions -1":            func(s *Settings) { s.Partitions = -1 },
		"partitions 1025":          func(s *Settings) { s.Partitions = record.MaxPartitions + 1 },
		"keyFields[1] is empty":    func(s *Settings) { s.KeyFields = []string{"a", ""} },
		`keyFields[2] "a"`:         func(s *Settings) { s.KeyFields = []string{"a", "b", "a"} },
		"33 keyFields":             func(s *Settings) { s.KeyFields = make([]string, MaxKeyFields+1) },
		"archiveInterval 999ms":    func(s *Settings) { s.ArchiveInterval = 999 * time.Millisecond },
		"archiveInterval 24h0m1s":  func(s *Settings) { s.ArchiveInterval = MaxArchiveInterval + time.Second },
		"archiveInterval 1.5000":   func(s *Settings) { s.ArchiveInterval = 1500*time.Millisecond + 1 },
		"hotRetention -1s":         func(s *Settings) { s.HotRetention = -time.Second },
		"hotRetention 720h0m0.001": func(s *Settings) { s.HotRetention = MaxHotRetention + time.Millisecond },
		"datasetFormat":            func(s *Settings) { s.DatasetFormat = "ORC" },
		"consistency":              func(s *Settings) { s.Consistency = "SOMETIMES" },
	} {
		s := Settings{}.WithDefaults()
		ok(t, s.Validate())
		spoil(&s)
		err := s.Validate()
		wantErr(t, hint, err, record.ErrInvalid)
		if err != nil && !strings.Contains(err.Error(), hint) {
			t.Errorf("error %q does not say %q", err, hint)
		}
	}
	for _, text := range []string{"", "{}", "[]", `{"type":"LOW_LATENCY","partitions":0}`} {
		_, err := decodeSettings(text)
		wantErr(t, text, err, record.ErrCorrupt)
		if err != nil && strings.Contains(err.Error(), "\n") {
			t.Errorf("error of several lines: %q", err)
		}
	}
}
