package catalog

import (
	"errors"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/thermocline/thermocline/record"
	"github.com/thermocline/thermocline/record/recordtest"
)

// FuzzPageToken: what is taken is a token of ours, letter by letter.
func FuzzPageToken(f *testing.F) {
	f.Add("")
	f.Add(pageToken{"default", "quakes"}.String())
	f.Add("WyJhIixudWxsXQ")
	f.Add("WyJhIiwiYiJd\n")
	f.Fuzz(func(t *testing.T, text string) {
		recordtest.Bounded(t, 16<<10+16*len(text), func() {
			p, err := parsePageToken(text)
			switch {
			case err != nil:
				if !errors.Is(err, record.ErrInvalid) {
					t.Fatal(err)
				}
			case text != "" && p.String() != text:
				t.Fatalf("%q was taken for %q", text, p.String())
			}
		})
	})
}

// FuzzSettings: stored settings that are taken are valid and stay the same.
func FuzzSettings(f *testing.F) {
	good, err := Settings{KeyFields: []string{"k"}}.WithDefaults().encode()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(good)
	f.Add(`{"partitions":1e99}`)
	f.Fuzz(func(t *testing.T, text string) {
		recordtest.Bounded(t, 32<<10+64*len(text), func() {
			s, err := decodeSettings(text)
			if err != nil {
				if !errors.Is(err, record.ErrCorrupt) {
					t.Fatal(err)
				}
				return
			}
			b, err := s.encode()
			if err != nil {
				t.Fatal(err)
			}
			again, err := decodeSettings(b)
			if diff := cmp.Diff(s, again); err != nil || diff != "" {
				t.Fatalf("%v: %s", err, diff)
			}
		})
	})
}

// FuzzCut: a stored cut that is taken is valid and stays the same.
func FuzzCut(f *testing.F) {
	f.Add("[1,2,3]")
	f.Add("[]")
	f.Add("[9223372036854775808]")
	f.Fuzz(func(t *testing.T, text string) {
		recordtest.Bounded(t, 32<<10+64*len(text), func() {
			cut, err := decodeCut(text)
			if err != nil {
				if !errors.Is(err, record.ErrCorrupt) {
					t.Fatal(err)
				}
				return
			}
			b, err := encodeCut(cut)
			if err != nil {
				t.Fatal(err)
			}
			if again, err := decodeCut(b); err != nil || !again.Equal(cut) || len(again) != len(cut) {
				t.Fatalf("%v became %v, %v", cut, again, err)
			}
		})
	})
}
