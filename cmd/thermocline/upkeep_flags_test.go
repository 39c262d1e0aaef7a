package main

import (
	"errors"
	"testing"
	"time"

	"github.com/spf13/pflag"

	"github.com/thermocline/thermocline/cmd/thermocline/node"
	"github.com/thermocline/thermocline/record"
)

func TestUpkeepFlags(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		args []string
		want node.UpkeepOptions
		bad  bool
	}{
		{want: node.UpkeepOptions{CompactEvery: 10 * time.Minute, ExpireEvery: time.Hour, MaxAge: 120 * time.Hour, Grace: 24 * time.Hour, CompactBytes: 256 << 20}},
		{
			args: []string{"--compact-every=-1s", "--expire-every=5m", "--max-snapshot-age=1h", "--gc-grace=2h", "--compact-size=512"},
			want: node.UpkeepOptions{CompactEvery: -time.Second, ExpireEvery: 5 * time.Minute, MaxAge: time.Hour, Grace: 2 * time.Hour, CompactBytes: 512 << 20},
		},
		{args: []string{"--gc-grace=10m"}, bad: true},
		{args: []string{"--max-snapshot-age=-1h"}, bad: true},
		{args: []string{"--compact-size=64"}, bad: true},
	} {
		var f upkeepFlags
		s := pflag.NewFlagSet("serve", pflag.ContinueOnError)
		f.register(s)
		if err := s.Parse(c.args); err != nil {
			t.Fatal(err)
		}
		got, err := f.options()
		if c.bad {
			if !errors.Is(err, record.ErrInvalid) {
				t.Errorf("%v: %v", c.args, err)
			}
		} else if err != nil || got != c.want {
			t.Errorf("%v: %+v, %v", c.args, got, err)
		}
	}
	if got, err := (&upkeepFlags{}).options(); err != nil || got != (node.UpkeepOptions{}) {
		t.Errorf("without flags: %+v, %v", got, err)
	}
}
