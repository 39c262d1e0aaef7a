package test

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"math"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
)

// TestEnginesReadEarthquakes and TestEnginesReadAllTypes have PyIceberg and
// DuckDB read a table, and compare every row and type with what the server
// says of them (test/python/read_table.py).

func TestEnginesReadEarthquakes(t *testing.T) {
	t.Parallel()
	python := pythonPath(t)
	s := startServer(t, release)
	s.run(t, "stream", "create", "quakes", "--infer", "../testdata/earthquakes.ndjson", "--key", "network", "--partitions", "2")
	st := s.stream("quakes")
	text, err := os.ReadFile("../testdata/earthquakes.ndjson")
	if err != nil {
		t.Fatal(err)
	}
	quakes := slices.Collect(strings.Lines(string(text)))
	st.publishAndArchive(t, quakes, 4)
	st.compareWithEngines(t, python, quakes)
}

// allTypesSchema has each field type at the top and below, and a pair of
// columns whose values differ only behind what Iceberg keeps of a bound.
const allTypesSchema = `{"fields":[
	{"name":"number","type":"LONG","nullable":false},
	{"name":"boolean","type":"BOOLEAN","nullable":true},
	{"name":"byte","type":"BYTE","nullable":true},
	{"name":"short","type":"SHORT","nullable":true},
	{"name":"integer","type":"INTEGER","nullable":true},
	{"name":"long","type":"LONG","nullable":true},
	{"name":"float","type":"FLOAT","nullable":true},
	{"name":"double","type":"DOUBLE","nullable":true},
	{"name":"small","type":"DECIMAL","precision":9,"scale":2,"nullable":true},
	{"name":"medium","type":"DECIMAL","precision":18,"scale":0,"nullable":true},
	{"name":"large","type":"DECIMAL","precision":38,"scale":9,"nullable":true},
	{"name":"string","type":"STRING","nullable":true},
	{"name":"alike","type":"STRING","nullable":false},
	{"name":"binary","type":"BINARY","nullable":true},
	{"name":"blob","type":"BINARY","nullable":false},
	{"name":"date","type":"DATE","nullable":true},
	{"name":"timestamp","type":"TIMESTAMP","nullable":true},
	{"name":"always_null","type":"INTEGER","nullable":true},
	{"name":"array","type":"ARRAY","nullable":true,"element":{"type":"DECIMAL","precision":20,"scale":4,"nullable":true}},
	{"name":"map","type":"MAP","nullable":true,"value":{"type":"TIMESTAMP","nullable":true}},
	{"name":"struct","type":"STRUCT","nullable":true,"fields":[{"name":"flag","type":"BOOLEAN","nullable":false},{"name":"deep","type":"STRUCT","nullable":true,"fields":[{"name":"day","type":"DATE","nullable":false},{"name":"bytes","type":"BINARY","nullable":true}]},{"name":"lists","type":"ARRAY","nullable":false,"element":{"type":"ARRAY","nullable":false,"element":{"type":"STRING","nullable":true}}},{"name":"counts","type":"MAP","nullable":false,"value":{"type":"STRUCT","nullable":true,"fields":[{"name":"short","type":"SHORT","nullable":false}]}}]}
]}`

func TestEnginesReadAllTypes(t *testing.T) {
	t.Parallel()
	python := pythonPath(t)
	s := startServer(t, release)
	st := s.create(t, "all_types", allTypesSchema, `{"partitions":2,"archiveInterval":"1h"}`)
	rows := allTypesRows(t, 600)
	st.publishAndArchive(t, rows, 5)
	st.compareWithEngines(t, python, rows)
}

// TestEnginesReadLayouts: every archive has another layout, so that the table has files of
// many partition specs and sort orders. Engines skip files by their partitions, and must
// find every row all the same, also on the least and the greatest value of a column. (Years
// and months of the append time only: PyIceberg's fail at the ends of the calendar.)
func TestEnginesReadLayouts(t *testing.T) {
	t.Parallel()
	python := pythonPath(t)
	s := startServer(t, release)
	st := s.create(t, "laid_out", allTypesSchema, `{"partitions":2,"archiveInterval":"1h","partitioning":["bucket[3](string)"],"sortOrder":["long desc"],"bloomFilters":["string","long","large"]}`)
	rows := allTypesRows(t, 300)
	layouts := [][3]string{
		{"bucket[3](string)", "long desc", "string,long,large"},
		{"boolean, byte", "double, string desc nulls first", "date"},
		{"day(timestamp), truncate[3](alike)", "", "timestamp,small"},
		{"month(_timestamp), bucket[3](date), bucket[2](large)", "binary", ""},
		{"truncate[100](small), bucket[2](medium)", "medium", "medium"},
		{"year(_timestamp), bucket[4](long), truncate[10](short)", "timestamp", ""},
		{"hour(_timestamp), truncate[2](blob)", "_timestamp desc", "blob,integer"},
		{"string", "", ""}, {"small", "", ""}, {"date", "", ""}, {"struct.deep.day", "struct.flag", ""},
		{"", "", ""},
	}
	for i, l := range layouts {
		s.run(t, "stream", "settings", "laid_out", "--partition-by", l[0], "--sort-by", l[1], "--bloom", l[2])
		st.publish(t, strings.Join(rows[i*len(rows)/len(layouts):(i+1)*len(rows)/len(layouts)], ""))
		st.archive(t)
	}
	st.compareWithEngines(t, python, rows)
	s.run(t, "verify", "laid_out")
}

// publishAndArchive makes each part of the lines a flush, and so files of its own.
func (s *stream) publishAndArchive(t *testing.T, lines []string, parts int) {
	t.Helper()
	for p := range parts {
		s.publish(t, strings.Join(lines[p*len(lines)/parts:(p+1)*len(lines)/parts], ""))
		s.archive(t)
	}
}

// allTypesRows are lines of JSON: nulls, the extremes of each type, and rows at
// random, deterministic.
func allTypesRows(t *testing.T, n int) []string {
	t.Helper()
	r := rand.New(rand.NewPCG(1, 2))
	prefix := strings.Repeat("the same beginning ", 2)
	rows := []map[string]any{
		{"alike": prefix + "a", "blob": []byte{}},
		{
			"boolean": false, "byte": math.MinInt8, "short": math.MinInt16, "integer": math.MinInt32, "long": strconv.Itoa(math.MinInt64),
			"float": -math.MaxFloat32, "double": -math.MaxFloat64, "small": "-9999999.99", "medium": "-" + strings.Repeat("9", 18),
			"large": "-" + strings.Repeat("9", 29) + "." + strings.Repeat("9", 9), "string": "", "alike": "", "binary": []byte{}, "blob": []byte{0},
			"date": "0001-01-01", "timestamp": "0001-01-01T00:00:00Z", "array": []any{}, "map": map[string]any{},
			"struct": map[string]any{"flag": false, "deep": nil, "lists": []any{}, "counts": map[string]any{}},
		},
		{
			"boolean": true, "byte": math.MaxInt8, "short": math.MaxInt16, "integer": math.MaxInt32, "long": strconv.Itoa(math.MaxInt64),
			"float": math.MaxFloat32, "double": math.MaxFloat64, "small": "9999999.99", "medium": strings.Repeat("9", 18),
			"large": strings.Repeat("9", 29) + "." + strings.Repeat("9", 9),
			// No prefix of these has a successor, so their upper bounds cannot be cut.
			"string": strings.Repeat("\U0010FFFF", 20), "binary": []byte(strings.Repeat("\xff", 40)),
			// And these round up only at their first character or byte.
			"alike": "z" + strings.Repeat("\U0010FFFF", 20), "blob": []byte("\xfe" + strings.Repeat("\xff", 40)),
			"date": "9999-12-31", "timestamp": "9999-12-31T23:59:59.999999Z",
			"array": []any{nil, "-0.0001", strings.Repeat("9", 16) + ".9999"}, "map": map[string]any{"": nil, "𝔘": "1969-12-31T23:59:59.999999Z"},
			"struct": map[string]any{
				"flag": true, "deep": map[string]any{"day": "1969-12-31", "bytes": []byte("\x00\xff")},
				"lists":  []any{[]any{}, []any{nil, "", prefix}},
				"counts": map[string]any{"a": nil, "b": map[string]any{"short": -1}},
			},
		},
		{"float": math.SmallestNonzeroFloat32, "double": math.SmallestNonzeroFloat64, "long": "9007199254740993", "alike": prefix + "b", "blob": []byte(prefix)},
	}
	for len(rows) < n {
		rows = append(rows, randomTypesRow(r, prefix))
	}
	lines := make([]string, len(rows))
	for i, row := range rows {
		row["number"] = i
		line, err := json.Marshal(row)
		if err != nil {
			t.Fatal(err)
		}
		lines[i] = string(line) + "\n"
	}
	return lines
}

func randomTypesRow(r *rand.Rand, prefix string) map[string]any {
	day := func() time.Time { return time.Unix((r.Int64N(60_000)-20_000)*86400, 0).UTC() }
	stamp := func() string {
		return day().Add(time.Duration(r.Int64N(86_400_000_000)) * time.Microsecond).Format("2006-01-02T15:04:05.000000Z07:00")
	}
	bytes := func() string {
		b := make([]byte, r.IntN(24))
		for i := range b {
			b[i] = byte(r.Uint32())
		}
		return base64.StdEncoding.EncodeToString(b)
	}
	decimal := func(digits, scale int) string {
		whole := fmt.Sprint(r.Int64N(int64(math.Pow10(min(digits-scale, 15)))))
		if scale > 0 {
			whole += fmt.Sprintf(".%0*d", scale, r.Int64N(int64(math.Pow10(scale))))
		}
		return []string{"", "-"}[r.IntN(2)] + whole
	}
	row := map[string]any{
		"boolean": r.IntN(2) == 0, "byte": int8(r.Uint32()), "short": int16(r.Uint32()), "integer": int32(r.Uint32()),
		"long": int64(r.Uint64()), "float": float32(r.NormFloat64()), "double": r.NormFloat64() * 1e50,
		"small": decimal(9, 2), "medium": decimal(18, 0), "large": decimal(38, 9),
		"string": strings.Repeat("é", r.IntN(20)) + fmt.Sprint(r.IntN(99)), "binary": bytes(),
		"date": day().Format(time.DateOnly), "timestamp": stamp(),
		"array": []any{decimal(20, 4), nil, decimal(20, 4)}[:r.IntN(4)],
		"map":   map[string]any{fmt.Sprint(r.IntN(9)): stamp(), "n": nil},
		"struct": map[string]any{
			"flag": r.IntN(2) == 0, "deep": map[string]any{"day": day().Format(time.DateOnly), "bytes": bytes()},
			"lists":  []any{[]any{"a", nil}, []any{}}[:r.IntN(3)],
			"counts": map[string]any{fmt.Sprint(r.IntN(9)): map[string]any{"short": int16(r.Uint32())}},
		},
	}
	for name := range row {
		if r.IntN(6) == 0 {
			row[name] = nil
		}
	}
	row["alike"] = prefix + fmt.Sprint(r.IntN(1000))
	row["blob"] = base64.StdEncoding.EncodeToString([]byte(prefix + fmt.Sprint(r.IntN(1000))))
	return row
}

// compareWithEngines fails unless other engines find in the archived table
// what the server reads, and the server what was published.
func (s *stream) compareWithEngines(t *testing.T, python string, published []string) {
	t.Helper()
	if lag := s.offsets(t).LagRows; lag != 0 {
		t.Fatalf("%d rows are not archived", lag)
	}
	dir := t.TempDir()
	schema, rows := filepath.Join(dir, "schema.json"), filepath.Join(dir, "rows.ndjson")
	s.describeTo(t, schema, rows)
	sent := filepath.Join(dir, "published.ndjson")
	if err := os.WriteFile(sent, []byte(strings.Join(published, "")), 0o600); err != nil {
		t.Fatal(err)
	}
	args := []string{
		"python/read_table.py", "--schema", schema, "--rows", rows, "--published", sent,
		"--metadata", s.metadata(t), "--catalog", "http://" + s.server.address + "/iceberg", "--table", "default." + s.name,
	}
	cmd := exec.CommandContext(t.Context(), python, args...)
	cmd.Env = append(os.Environ(), "PYTHONDONTWRITEBYTECODE=1")
	cmd.Env = append(cmd.Env, s.server.env...)
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	t.Logf("%s", out)
}

// describeTo writes what the server says of the stream: its schema, and its rows
// with system columns.
func (s *stream) describeTo(t *testing.T, schema, rows string) {
	t.Helper()
	out, err := os.Create(rows)
	if err != nil {
		t.Fatal(err)
	}
	s.scan(t, "system=true&numbers=string", func(line []byte) {
		if _, err := out.Write(append(line, '\n')); err != nil {
			t.Fatal(err)
		}
	})
	if err := out.Close(); err != nil {
		t.Fatal(err)
	}
	var version struct{ Schema json.RawMessage }
	s.get(t, s.path+"/schema", &version)
	if err := os.WriteFile(schema, version.Schema, 0o600); err != nil {
		t.Fatal(err)
	}
}

// metadata is the URI of the table's newest metadata file.
func (s *stream) metadata(t *testing.T) string {
	t.Helper()
	var list struct{ MetadataLocation string }
	s.get(t, "/v1/datasets/"+s.name+"/branches/main/snapshots?limit=1", &list)
	if list.MetadataLocation == "" {
		t.Fatal("the dataset names no metadata file")
	}
	return list.MetadataLocation
}

// pythonPath is a Python with test/python/requirements.txt.
func pythonPath(t *testing.T) string {
	t.Helper()
	if python := os.Getenv("THERMOCLINE_PYTHON"); python != "" {
		return python
	}
	python, err := filepath.Abs("../.cache/venv/bin/python")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(python); err != nil {
		t.Skip("no Python with PyIceberg and DuckDB; `make test` installs one")
	}
	return python
}
