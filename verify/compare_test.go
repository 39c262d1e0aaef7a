package verify

import (
	"strings"
	"testing"

	"github.com/apache/arrow-go/v18/arrow"
	"github.com/apache/arrow-go/v18/arrow/array"
	"github.com/apache/arrow-go/v18/arrow/memory"
)

// Values of nested types differ in their parts. (What stands below nulls does not
// count: TestEveryTypeCompares.)
func TestSame(t *testing.T) {
	t.Parallel()
	long := arrow.PrimitiveTypes.Int64
	part := arrow.StructOf(arrow.Field{Name: "x", Type: long}, arrow.Field{Name: "y", Type: arrow.BinaryTypes.String, Nullable: true})
	for _, c := range []struct {
		t      arrow.DataType
		values string // all different
	}{
		{long, `[null, 0, 1]`},
		{arrow.BinaryTypes.String, `[null, "", "a", "b"]`},
		{part, `[null, {"x":0,"y":null}, {"x":0,"y":""}, {"x":1,"y":""}]`},
		{arrow.ListOf(part), `[null, [], [null], [{"x":0}], [{"x":0,"y":"a"}], [{"x":0},{"x":0}], [{"x":0},null]]`},
		{arrow.MapOf(arrow.BinaryTypes.String, long), `[null, [], [{"key":"a","value":null}], [{"key":"a","value":1}], [{"key":"b","value":1}]]`},
		{arrow.StructOf(arrow.Field{Name: "p", Type: part, Nullable: true}, arrow.Field{Name: "l", Type: arrow.ListOf(long), Nullable: true}),
			`[null, {"p":null,"l":[1]}, {"p":{"x":1},"l":[1]}, {"p":{"x":1},"l":[2]}, {"p":{"x":1,"y":"a"},"l":[2]}]`},
	} {
		a := fromJSON(t, c.t, c.values)
		// The same values at other places of a larger array.
		b := fromJSON(t, c.t, strings.Replace(c.values, "[", "[null, null, ", 1))
		for i := range a.Len() {
			for j := range a.Len() {
				if got := same(a, i, b, j+2); got != (i == j) {
					t.Errorf("%s: %s and %s: same = %v", c.t, a.ValueStr(i), b.ValueStr(j+2), got)
				}
			}
		}
	}
}

func fromJSON(t *testing.T, dt arrow.DataType, text string) arrow.Array {
	t.Helper()
	a, _, err := array.FromJSON(memory.DefaultAllocator, dt, strings.NewReader(text))
	if err != nil {
		t.Fatal(err)
	}
	return a
}
