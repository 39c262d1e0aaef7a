package verify_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/thermocline/thermocline/api"
	"github.com/thermocline/thermocline/cmd/thermocline/node"
	"github.com/thermocline/thermocline/schema"
	"github.com/thermocline/thermocline/verify"
	"github.com/thermocline/thermocline/writer"
)

const allTypes = `{"fields":[
	{"name":"k","type":"STRING","nullable":false},
	{"name":"bo","type":"BOOLEAN"},{"name":"by","type":"BYTE"},{"name":"sh","type":"SHORT"},{"name":"i","type":"INTEGER"},
	{"name":"l","type":"LONG"},{"name":"f","type":"FLOAT"},{"name":"d","type":"DOUBLE"},
	{"name":"de","type":"DECIMAL","precision":38,"scale":4},{"name":"bi","type":"BINARY"},{"name":"da","type":"DATE"},{"name":"ti","type":"TIMESTAMP"},
	{"name":"a","type":"ARRAY","element":{"type":"STRUCT","fields":[{"name":"x","type":"LONG","nullable":false},{"name":"y","type":"STRING"}]}},
	{"name":"m","type":"MAP","value":{"type":"DECIMAL","precision":9,"scale":2}},
	{"name":"s","type":"STRUCT","fields":[
		{"name":"need","type":"LONG","nullable":false},
		{"name":"inner","type":"STRUCT","nullable":false,"fields":[{"name":"t","type":"STRING","nullable":false},{"name":"b","type":"BYTE"}]},
		{"name":"list","type":"ARRAY","element":{"type":"DOUBLE"}}]}]}`

// allRow is row n of allTypes; each value is null or empty now and then.
func allRow(n int) string {
	some := func(every int, name, value string) string {
		if n%every == 0 {
			return fmt.Sprintf(`,"%s":null`, name)
		}
		return fmt.Sprintf(`,"%s":%s`, name, value)
	}
	row := fmt.Sprintf(`{"k":"key-%d"`, n%5)
	row += some(2, "bo", fmt.Sprint(n%3 == 0)) + some(3, "by", fmt.Sprint(n%256-128)) + some(4, "sh", fmt.Sprint(-n*7)) + some(5, "i", fmt.Sprint(n*1_000_003))
	row += some(6, "l", fmt.Sprint(int64(n)*9_007_199_254_740)) + some(7, "f", fmt.Sprintf("%d.5", -n)) + some(3, "d", fmt.Sprintf("%d.125", n-50))
	row += some(4, "de", fmt.Sprintf(`"-%d123456789012345678901.%04d"`, n+1, n)) + some(5, "bi", fmt.Sprintf(`"%s"`, []string{"", "AA==", "/////w=="}[n%3]))
	row += some(2, "da", fmt.Sprintf(`"19%02d-02-28"`, n%100)) + some(3, "ti", fmt.Sprintf(`"20%02d-03-01T12:00:00.%06dZ"`, n%90+10, n))
	row += some(4, "a", []string{`[]`, `[{"x":1},null,{"x":2,"y":"z"}]`, `[null]`, `[{"x":-1,"y":null}]`}[n/4%4])
	row += some(3, "m", []string{`{}`, `{"p":"1.25","q":null}`, `{"r":"-7.00"}`}[n/3%3])
	row += some(2, "s", []string{`{"need":1,"inner":{"t":"a"}}`, `{"need":2,"inner":{"t":"","b":3},"list":[1.5,null]}`, `{"need":3,"inner":{"t":"c","b":null},"list":[]}`}[n/2%3])
	return row + "}\n"
}

// Rows of every type are the same in the data file and in the hot log, before and
// after the schema has evolved.
func TestEveryTypeCompares(t *testing.T) {
	t.Parallel()
	for _, format := range []api.DatasetFormat{"PARQUET", "AVRO"} {
		t.Run(string(format), func(t *testing.T) {
			t.Parallel()
			n, err := node.Open(t.Context(), node.Options{Dir: t.TempDir(), SegmentBytes: 256 << 10, LogBytes: 64 << 20, Logger: quiet})
			if err != nil {
				t.Fatal(err)
			}
			defer n.Close()
			s, err := schema.Parse([]byte(allTypes))
			if err != nil {
				t.Fatal(err)
			}
			b, hot, every := n.Backend(), time.Hour, 24*time.Hour
			if _, err := b.Streams.CreateStream(t.Context(), api.CreateStream{Name: "default.all", Schema: s, Settings: api.SettingsPatch{HotRetention: &hot, ArchiveInterval: &every, DatasetFormat: &format}}); err != nil {
				t.Fatal(err)
			}
			rows := 0
			round := func() {
				t.Helper()
				var body strings.Builder
				for range 150 {
					body.WriteString(allRow(rows))
					rows++
				}
				if _, err := b.Publisher.Publish(t.Context(), writer.Request{Stream: "default.all", Branch: "main", Format: writer.JSON, Body: []byte(body.String()), IgnoreUnknown: true}); err != nil {
					t.Fatal(err)
				}
				if _, err := b.Archiver.ArchiveNow(t.Context(), "default.all", "main"); err != nil {
					t.Fatal(err)
				}
				out, err := check(t.Context(), b.Verifier.(*verify.Verifier), "all", verify.Request{})
				if err != nil {
					t.Fatal(err)
				}
				for _, f := range out.findings {
					t.Error(f.Error())
				}
				if out.summary.Compared != int64(rows) {
					t.Errorf("%d of %d rows were compared", out.summary.Compared, rows)
				}
			}
			round()
			v, err := b.Schemas.Schema(t.Context(), "default.all", "main")
			if err != nil {
				t.Fatal(err)
			}
			next := v.Schema.Clone()
			for i := range next.Fields {
				f := &next.Fields[i]
				switch f.Name {
				case "by", "sh":
					f.Type.Kind = schema.Long
				case "f":
					f.Type.Kind = schema.Double
				case "m":
					f.Type.Value.Type.Precision = 20
				case "bo":
					f.Name = "renamed"
				}
			}
			next.Fields = append(next.Fields[:9], next.Fields[10:]...) // without bi
			next.Fields = append(next.Fields,
				schema.Field{Name: "new", Type: schema.Type{Kind: schema.String}, Nullable: true},
				schema.Field{Name: "def", Type: schema.Type{Kind: schema.Integer}, Default: []byte("7")})
			if _, err := b.Schemas.Evolve(t.Context(), "default.all", "main", next); err != nil {
				t.Fatal(err)
			}
			round()
		})
	}
}
