package verify_test

import (
	"testing"

	"github.com/thermocline/thermocline/verify"
)

// streams are those of the prepared directory.
var streams = []string{"kept", "moved", "reset", "drains", "fresh"}

func TestSoundStreamsHaveNoFindings(t *testing.T) {
	e := newEnv(t)
	for _, s := range streams {
		out := e.want(s)
		t.Logf("%s: %+v", s, out.summary)
	}
}

var _ verify.Code
