package main

import (
	"fmt"
	"time"

	"github.com/spf13/pflag"

	"github.com/thermocline/thermocline/cmd/thermocline/node"
	"github.com/thermocline/thermocline/record"
)

// upkeepFlags say how often the server tends datasets, and what may go. A branch's
// own policy goes before the age.
type upkeepFlags struct {
	compactEvery, expireEvery, maxAge, grace time.Duration
	compactMiB                               int64
}

func (f *upkeepFlags) register(s *pflag.FlagSet) {
	s.DurationVar(&f.compactEvery, "compact-every", node.CompactEvery, "time between two walks that compact datasets; negative: never")
	s.DurationVar(&f.expireEvery, "expire-every", node.ExpireEvery, "time between two walks that drop old snapshots and delete unreached files; negative: never")
	s.DurationVar(&f.maxAge, "max-snapshot-age", 120*time.Hour, "how long a snapshot is kept after a newer one took its place, where the branch has no policy of its own")
	s.DurationVar(&f.grace, "gc-grace", 24*time.Hour, "how long a file must be known to be unreached before it is deleted; at least 1h")
	s.Int64Var(&f.compactMiB, "compact-size", 256, "how large compaction makes a data file, in MiB: 128 to 512")
}

// options are the node's; what was not registered, as in demo, is the default.
func (f *upkeepFlags) options() (node.UpkeepOptions, error) {
	switch {
	case f.grace != 0 && f.grace < time.Hour:
		return node.UpkeepOptions{}, fmt.Errorf("--gc-grace %v: use 1h or more; younger files may belong to a commit under way: %w", f.grace, record.ErrInvalid)
	case f.maxAge < 0:
		return node.UpkeepOptions{}, fmt.Errorf("--max-snapshot-age %v: use a positive duration, like 120h: %w", f.maxAge, record.ErrInvalid)
	case f.compactMiB != 0 && (f.compactMiB < 128 || f.compactMiB > 512):
		return node.UpkeepOptions{}, fmt.Errorf("--compact-size %d: use 128 to 512 MiB: %w", f.compactMiB, record.ErrInvalid)
	}
	return node.UpkeepOptions{
		CompactEvery: f.compactEvery, ExpireEvery: f.expireEvery, MaxAge: f.maxAge, Grace: f.grace, CompactBytes: f.compactMiB << 20,
	}, nil
}
