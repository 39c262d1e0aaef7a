package test

import (
	"errors"
	"net/http"
	"os"
	"regexp"
	"slices"
	"testing"
)

// archiveSteps are the points of the archive protocol at which the process can
// be made to kill itself.
var archiveSteps = []string{"lease", "load", "fence", "write", "upload", "commit", "done"}

// TestArchiveSteps: a step that is added to the protocol must be crashed at, too.
func TestArchiveSteps(t *testing.T) {
	t.Parallel()
	source, err := os.ReadFile("../archiver/archiver.go")
	if err != nil {
		t.Fatal(err)
	}
	var steps []string
	for _, m := range regexp.MustCompile(`Step\w+ +Step += "(\w+)"`).FindAllStringSubmatch(string(source), -1) {
		steps = append(steps, m[1])
	}
	if !slices.Equal(steps, archiveSteps) {
		t.Errorf("the archiver has the steps %v, the test knows %v", steps, archiveSteps)
	}
}

// TestArchiveSurvivesCrashes kills the server at each step of the archive
// protocol, twice in a row. Afterwards no row may be missing or there twice,
// and the next archive must succeed.
func TestArchiveSurvivesCrashes(t *testing.T) {
	t.Parallel()
	for _, step := range archiveSteps {
		t.Run(step, func(t *testing.T) {
			t.Parallel()
			s := startServer(t, checked)
			st := s.create(t, "rows", numberedSchema, `{"partitions":3,"keyFields":["group"],"archiveInterval":"1h"}`)
			const each = 400
			var rows int64
			publish := func() {
				t.Helper()
				st.publish(t, numbered(rows, each))
				rows += each
			}
			// An archived half, so that there is an epoch to fence and a snapshot to start from.
			publish()
			if a := st.archive(t); a.Rows != each {
				t.Fatalf("the first archive moved %d rows, want %d", a.Rows, each)
			}
			publish()
			s.kill(t)

			crash := "THERMOCLINE_CRASH_AT=" + step
			for range 2 {
				if err := s.tryStart(crash); errors.Is(err, errEnded) {
					continue // it archived, and crashed, before it served
				} else if err != nil {
					t.Fatal(err)
				}
				publish()
				_, err := s.send(t.Context(), http.MethodPost, st.path+"/archive", nil, nil)
				if p := (*problem)(nil); err == nil || errors.As(err, &p) {
					t.Fatalf("the archive was answered (%v), so the server never came to step %q", err, step)
				}
				s.awaitCrash(t)
			}

			s.start(t)
			st.wantNumbers(t, rows)
			publish()
			st.archive(t)
			if lag := st.offsets(t).LagRows; lag != 0 {
				t.Errorf("%d rows are not archived after an archive", lag)
			}
			st.wantNumbers(t, rows)
			st.wantArchived(t, rows)
			s.stop(t)
			s.start(t)
			st.wantNumbers(t, rows)
		})
	}
}

// wantArchived fails unless the dataset's newest snapshot counts n rows: a
// reader that hides doubled rows by offset would not be noticed otherwise.
func (s *stream) wantArchived(t *testing.T, n int64) {
	t.Helper()
	var list struct {
		Files []struct{ Rows int64 }
	}
	s.get(t, "/v1/datasets/"+s.name+"/branches/main/files?limit=1000", &list)
	var rows int64
	for _, f := range list.Files {
		rows += f.Rows
	}
	if rows != n {
		t.Errorf("the dataset's files hold %d rows, want %d", rows, n)
	}
}
