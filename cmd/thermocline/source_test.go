package main

import (
	"bufio"
	"bytes"
	"encoding/csv"
	"encoding/json"
	"io"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/twmb/avro/ocf"
	"pgregory.net/rapid"

	"github.com/thermocline/thermocline/schema"
)

func bufioOf(s string) *bufio.Reader { return bufio.NewReaderSize(strings.NewReader(s), 16) }

// What encoding/csv writes is read as the same values.
func TestCSVAgainstEncodingCSV(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		value := rapid.StringOf(rapid.SampledFrom([]rune("ab ,\"\n;é\t")))
		width := rapid.IntRange(1, 4).Draw(t, "width")
		records := rapid.SliceOfN(rapid.SliceOfN(value, width, width), 0, 8).Draw(t, "records")
		var buf bytes.Buffer
		w := csv.NewWriter(&buf)
		w.UseCRLF = rapid.Bool().Draw(t, "crlf")
		var want [][]string
		for _, r := range records {
			if strings.TrimSpace(strings.Join(r, "")) == "" {
				continue // a record of one blank value looks like a blank line
			}
			if err := w.Write(r); err != nil {
				t.Fatal(err)
			}
			want = append(want, r)
		}
		w.Flush()
		r := csvReader{r: bufioOf(buf.String()), comma: ','}
		var got [][]string
		for {
			cells, err := r.next()
			if err == io.EOF {
				break
			}
			if err != nil {
				t.Fatal(err)
			}
			var record []string
			for _, c := range cells {
				record = append(record, string(c.text))
			}
			got = append(got, record)
		}
		if w.UseCRLF {
			// The writer turns line ends inside values into \r\n as well.
			for _, record := range got {
				for i := range record {
					record[i] = strings.ReplaceAll(record[i], "\r\n", "\n")
				}
			}
		}
		if d := cmp.Diff(want, got); d != "" {
			t.Fatalf("%q (-want +got):\n%s", buf.String(), d)
		}
	})
}

func TestCSVErrors(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]string{
		"a,b\n1\n":           "line 2: 1 values, the header has 2",
		"a\n\"x":             "line 2: a quoted value does not end",
		"a\n\"x\"y\n":        "line 2: text behind a closing quote",
		"a\n\"x\n\ny\"z\n":   "line 2: text behind",
		"\n\n":               "empty",
		"":                   "empty",
		"a,\n1,2\n":          "column 2 has no name",
		"a\n\"x\ny\"\n1,2\n": "line 4: 2 values",
	} {
		src, err := newCSVSource(&input{r: bufioOf(text), comma: ','}, &schema.Schema{})
		if err == nil {
			_, err = src.next(t.Context())
		}
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v, want %q", text, err, want)
		}
	}
}

func TestCSVTypes(t *testing.T) {
	t.Parallel()
	s, err := schema.ParseAny([]byte(`{"fields":[
		{"name":"s","type":"STRING","nullable":false},{"name":"sn","type":"STRING","nullable":true},
		{"name":"i","type":"LONG","nullable":true},{"name":"r","type":"LONG","nullable":false},
		{"name":"b","type":"BOOLEAN","nullable":true},{"name":"t","type":"TIMESTAMP","nullable":true},
		{"name":"l","type":"ARRAY","nullable":true,"element":{"type":"LONG"}}]}`))
	if err != nil {
		t.Fatal(err)
	}
	const text = "\uFEFFs,sn,i,r,b,t,l,extra\n" +
		"12,12, 7 ,8,TRUE,2018-01-31T01:00:00Z,\"[1,\n2]\",x\n" +
		",,,,,,,\n" +
		`"","","","","",1517360000000,"[1,",` + "\n" +
		"x,y,007,1e3,1,-5,{},\xff\n"
	src, err := newCSVSource(&input{r: bufioOf(text), comma: ','}, s)
	if err != nil {
		t.Fatal(err)
	}
	b, err := src.next(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	want := `{"s":"12","sn":"12","i":7,"r":8,"b":true,"t":"2018-01-31T01:00:00Z","l":[1, 2],"extra":"x"}
{"s":"","sn":null,"i":null,"b":null,"t":null,"l":null,"extra":null}
{"s":"","sn":"","i":"","r":"","b":"","t":1517360000000,"l":"[1,","extra":null}
{"s":"x","sn":"y","i":"007","r":1e3,"b":"1","t":-5,"l":{},"extra":"` + "\xff" + `"}
`
	if d := cmp.Diff(want, string(b.body)); d != "" || b.rows != 4 {
		t.Errorf("%d rows (-want +got):\n%s", b.rows, d)
	}
	if _, err := src.next(t.Context()); err != io.EOF {
		t.Errorf("behind the last: %v", err)
	}
}

func TestIsNumber(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		text := rapid.StringMatching(`-?[0-9]{0,3}(\.[0-9]{0,2})?([eE][+-]?[0-9]{0,2})?[ x+]?`).Draw(t, "text")
		var n json.Number
		want := json.Unmarshal([]byte(text), &n) == nil && strings.TrimSpace(text) == text && text != ""
		if got := isNumber([]byte(text)); got != want {
			t.Fatalf("isNumber(%q) = %v", text, got)
		}
	})
}

// The pieces of a container are containers with the same rows in the same
// order; damage is found before anything of it is sent.
func TestAvroPieces(t *testing.T) {
	t.Parallel()
	whole := avroNumbers(t, 20_000)
	src, err := newAvroSource(&input{r: bufioOf(string(whole)), name: "x"})
	if err != nil {
		t.Fatal(err)
	}
	n, pieces := int64(0), 0
	for {
		b, err := src.next(t.Context())
		if err == io.EOF {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		pieces++
		r, err := ocf.NewReader(bytes.NewReader(b.body))
		if err != nil {
			t.Fatal(err)
		}
		rows := int64(0)
		for ; ; rows++ {
			var row struct {
				N    int64  `avro:"n"`
				Text string `avro:"text"`
			}
			if err := r.Decode(&row); err == io.EOF {
				break
			} else if err != nil {
				t.Fatal(err)
			}
			if row.N != n {
				t.Fatalf("row %d is %d", n, row.N)
			}
			n++
		}
		if rows != b.rows || b.first+rows != n {
			t.Errorf("piece %d: %d rows from %d, says %d", pieces, rows, b.first, b.rows)
		}
	}
	if n != 20_000 || pieces < 2 {
		t.Errorf("%d rows in %d pieces", n, pieces)
	}
	for name, damaged := range map[string][]byte{
		"cut in a block":  whole[:len(whole)-5],
		"cut in a header": whole[:20],
		"no container":    []byte("Obj\x02xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx"),
		"sync":            append(bytes.Clone(whole[:len(whole)-1]), whole[len(whole)-1]^1),
	} {
		src, err := newAvroSource(&input{r: bufioOf(string(damaged)), name: "x"})
		for err == nil {
			_, err = src.next(t.Context())
		}
		if err == io.EOF {
			t.Errorf("%s: not noticed", name)
		}
	}
}

// The same input makes the same batches, or a repeated ingest could not tell
// which of them the stream has.
func TestBatchesAreDeterministic(t *testing.T) {
	t.Parallel()
	text := string(numbers(0, 12_345))
	cut := func(size int) (sizes []int) {
		src := &ndjsonSource{r: bufio.NewReaderSize(strings.NewReader(text), size)}
		for {
			b, err := src.next(t.Context())
			if err == io.EOF {
				return sizes
			}
			if err != nil {
				t.Fatal(err)
			}
			sizes = append(sizes, len(b.body))
		}
	}
	if d := cmp.Diff(cut(16), cut(1<<20)); d != "" || len(cut(16)) != 3 {
		t.Error(d)
	}
	if _, err := (&ndjsonSource{r: bufioOf(strings.Repeat("x", maxLine+100))}).next(t.Context()); err == nil || !strings.Contains(err.Error(), "row 1") {
		t.Errorf("a line without end: %v", err)
	}
}
