package test

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"
)

const eventsSchema = `{"fields":[
	{"name":"id","type":"LONG","nullable":false},
	{"name":"region","type":"STRING","nullable":true},
	{"name":"magnitude","type":"DOUBLE","nullable":true},
	{"name":"at","type":"TIMESTAMP","nullable":true}
]}`

// event is a row of eventsSchema, to which Spark adds the column reviewed.
type event struct {
	ID        int64    `json:"id"`
	Region    *string  `json:"region"`
	Magnitude *float64 `json:"magnitude"`
	At        *string  `json:"at"`
	Reviewed  *bool    `json:"reviewed,omitempty"`
}

func (e event) String() string {
	text, err := json.Marshal(e)
	if err != nil {
		panic(err)
	}
	return string(text)
}

// publishedEvent is the row that publishers make of a number.
func publishedEvent(id int64) event {
	region, magnitude := []string{"north", "east", "south"}[id%3], float64(id%97)/4
	at := time.Unix(id, 0).UTC().Format(time.RFC3339)
	return event{ID: id, Region: &region, Magnitude: &magnitude, At: &at}
}

// publishEvents publishes rows with numbers from first on until ctx ends, and
// adds them to rows.
func (s *stream) publishEvents(ctx context.Context, t *testing.T, first int64, rows map[int64]event) {
	for id := first; ctx.Err() == nil; {
		var lines strings.Builder
		for range 20 {
			rows[id] = publishedEvent(id)
			fmt.Fprintln(&lines, rows[id])
			id++
		}
		if _, err := s.send(t.Context(), "POST", s.path+"/rows", ndjson, []byte(lines.String())); err != nil {
			t.Errorf("publish to %s: %v", s.path, err)
			return
		}
		select {
		case <-ctx.Done():
		case <-time.After(50 * time.Millisecond):
		}
	}
}

// events reads all rows of the stream; each has to be there once.
func (s *stream) events(t *testing.T) map[int64]event {
	t.Helper()
	rows := make(map[int64]event)
	s.scan(t, "", func(line []byte) {
		var e event
		if err := json.Unmarshal(line, &e); err != nil {
			t.Fatal(err)
		}
		if old, twice := rows[e.ID]; twice {
			t.Fatalf("row %d is there twice: %s and %s", e.ID, old, e)
		}
		rows[e.ID] = e
	})
	return rows
}

func compareEvents(t *testing.T, what string, got, want map[int64]event) {
	t.Helper()
	var differences []string
	for id, w := range want {
		if g, ok := got[id]; !ok {
			differences = append(differences, fmt.Sprintf("row %d is missing", id))
		} else if g.String() != w.String() {
			differences = append(differences, fmt.Sprintf("row is %s, want %s", g, w))
		}
	}
	for id := range got {
		if _, ok := want[id]; !ok {
			differences = append(differences, fmt.Sprintf("row %d should not be there", id))
		}
	}
	if len(differences) > 0 {
		slices.Sort(differences)
		t.Errorf("%s: %d rows, want %d, %d differences:\n%s", what, len(got), len(want), len(differences),
			strings.Join(differences[:min(10, len(differences))], "\n"))
	}
}

// branchOf makes a branch of the stream, from where it is now, archived every second.
func (s *stream) branchOf(t *testing.T, name string) *stream {
	t.Helper()
	branches := "/v1/streams/" + s.name + "/branches"
	s.post(t, branches, map[string]any{"name": name}, nil)
	return &stream{s.server, s.name, branches + "/" + name}
}
