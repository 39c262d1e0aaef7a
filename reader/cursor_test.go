package reader

import (
	"errors"
	"testing"

	"github.com/thermocline/thermocline/record"
	"github.com/thermocline/thermocline/record/recordtest"
)

func TestCursorRoundTrip(t *testing.T) {
	t.Parallel()
	for _, c := range []Cursor{
		{View: 1},
		{View: 7, Next: record.Offsets{0, 5, 1 << 62}, Checkpoint: 9},
		{View: 1<<63 - 1, Next: make(record.Offsets, record.MaxPartitions), Checkpoint: 1<<63 - 1},
	} {
		got, err := ParseCursor(c.String())
		if err != nil {
			t.Fatalf("ParseCursor(%v): %v", c, err)
		}
		if got.View != c.View || got.Checkpoint != c.Checkpoint || !got.Next.Equal(c.Next) || len(got.Next) != len(c.Next) {
			t.Errorf("got %v, want %v", got, c)
		}
	}
}

// Every single changed character must be noticed, and every cut.
func TestCursorDamage(t *testing.T) {
	t.Parallel()
	good := Cursor{View: 3, Next: record.Offsets{12, 900000}, Checkpoint: 4}.String()
	for i := range good {
		for _, ch := range []byte("Az0_-") {
			if good[i] == ch {
				continue
			}
			bad := good[:i] + string(ch) + good[i+1:]
			if c, err := ParseCursor(bad); !errors.Is(err, record.ErrInvalid) {
				t.Fatalf("ParseCursor(%q) = %v, %v; want ErrInvalid", bad, c, err)
			}
		}
		if _, err := ParseCursor(good[:i]); !errors.Is(err, record.ErrInvalid) {
			t.Fatalf("a cursor cut to %d characters was accepted", i)
		}
	}
}

func FuzzParseCursor(f *testing.F) {
	f.Add(Cursor{View: 1, Next: record.Offsets{1, 2}}.String())
	f.Add("")
	f.Add("AQEAAA")
	f.Fuzz(func(t *testing.T, text string) {
		var c Cursor
		var err error
		recordtest.Bounded(t, 16<<10+64*len(text), func() { c, err = ParseCursor(text) })
		if err != nil {
			if !errors.Is(err, record.ErrInvalid) {
				t.Fatalf("error %v is not ErrInvalid", err)
			}
			return
		}
		if again, err := ParseCursor(c.String()); err != nil || again.View != c.View || !again.Next.Equal(c.Next) {
			t.Fatalf("%q parses to %v, which does not survive: %v", text, c, err)
		}
	})
}
