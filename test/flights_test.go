package test

import (
	"bufio"
	"compress/gzip"
	"encoding/json"
	"fmt"
	"hash/maphash"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"
	"time"
)

const flightSchema = `{"fields":[
	{"name":"date","type":"TIMESTAMP","nullable":false},
	{"name":"delay","type":"INTEGER","nullable":false},
	{"name":"distance","type":"INTEGER","nullable":false},
	{"name":"origin","type":"STRING","nullable":false},
	{"name":"destination","type":"STRING","nullable":false}
]}`

// flight is a row of the flights, comparable.
type flight struct {
	Date                string
	Delay, Distance     int
	Origin, Destination string
}

// flights is a file of flights with what must come out of a stream of them.
type flights struct {
	file string // NDJSON, gzip
	rows int64
	sum  contents
}

// contents is a multiset of rows, as the sum of their hashes: the same for the
// same rows in any order, and another when one is missing, changed or doubled.
type contents uint64

var hashSeed = maphash.MakeSeed()

func (c *contents) add(f flight) { *c += contents(maphash.Comparable(hashSeed, f)) }

// allFlights are those of the file that THERMOCLINE_FLIGHTS names, or else
// made-up ones.
func allFlights(t *testing.T) flights {
	t.Helper()
	if file := os.Getenv("THERMOCLINE_FLIGHTS"); file != "" {
		return countFlights(t, file)
	}
	return makeFlights(t, 150_000)
}

func countFlights(t *testing.T, file string) flights {
	t.Helper()
	in, err := os.Open(file)
	if err != nil {
		t.Fatal(err)
	}
	defer in.Close()
	z, err := gzip.NewReader(in)
	if err != nil {
		t.Fatal(err)
	}
	all := flights{file: file}
	lines := bufio.NewScanner(z)
	for ; lines.Scan(); all.rows++ {
		var f flight
		if err := json.Unmarshal(lines.Bytes(), &f); err != nil {
			t.Fatalf("%v in %s", err, lines.Bytes())
		}
		all.sum.add(f)
	}
	if err := lines.Err(); err != nil {
		t.Fatal(err)
	}
	return all
}

// makeFlights is deterministic. Rows come in the shape and the order of the
// real ones: by date, many of a minute, some twice.
func makeFlights(t *testing.T, n int64) flights {
	t.Helper()
	all := flights{file: filepath.Join(t.TempDir(), "flights.ndjson.gz"), rows: n}
	out, err := os.Create(all.file)
	if err != nil {
		t.Fatal(err)
	}
	z, err := gzip.NewWriterLevel(out, gzip.BestSpeed)
	if err != nil {
		t.Fatal(err)
	}
	w := bufio.NewWriter(z)
	r := rand.New(rand.NewPCG(2001, 1))
	airports := []string{"ATL", "ORD", "DFW", "LAX", "PHX", "IAH", "LAS", "MSP", "DTW", "DEN", "STL", "SFO"}
	minute := time.Date(2001, 1, 1, 0, 1, 0, 0, time.UTC)
	for range n {
		if r.IntN(8) == 0 {
			minute = minute.Add(time.Minute)
		}
		f := flight{
			Date:  minute.Format(time.RFC3339),
			Delay: r.IntN(60) - 20, Distance: 100 + r.IntN(2600),
			Origin: airports[r.IntN(len(airports))], Destination: airports[r.IntN(len(airports))],
		}
		all.sum.add(f)
		fmt.Fprintf(w, `{"date":%q,"delay":%d,"distance":%d,"origin":%q,"destination":%q}`+"\n",
			f.Date, f.Delay, f.Distance, f.Origin, f.Destination)
	}
	for _, close := range []func() error{w.Flush, z.Close, out.Close} {
		if err := close(); err != nil {
			t.Fatal(err)
		}
	}
	return all
}

// want fails unless the stream holds exactly these flights.
func (all flights) want(t *testing.T, st *stream) {
	t.Helper()
	var d density
	var sum contents
	st.scan(t, "system=true", func(line []byte) {
		var row struct {
			place
			flight
		}
		if err := json.Unmarshal(line, &row); err != nil {
			t.Fatalf("%v in %s", err, line)
		}
		if err := d.add(row.place); err != nil {
			t.Fatal(err)
		}
		sum.add(row.flight)
	})
	d.check(t, st.offsets(t))
	if d.rows != all.rows {
		t.Errorf("%d rows, want %d", d.rows, all.rows)
	}
	if sum != all.sum {
		t.Errorf("the rows are not those that were ingested")
	}
}

func TestMakeFlights(t *testing.T) {
	t.Parallel()
	made := makeFlights(t, 1000)
	if read := countFlights(t, made.file); read.rows != made.rows || read.sum != made.sum {
		t.Errorf("read %d rows with sum %x, made %d with %x", read.rows, read.sum, made.rows, made.sum)
	}
}
