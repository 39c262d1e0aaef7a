package schema

import "testing"

// TestNoAllocations: the programs for rows allocate nothing once they are warm.
// (Not parallel: allocations are counted for the whole process.)
func TestNoAllocations(t *testing.T) {
	s := mustParse(t, quakeSchema)
	rows := quakes(t)[:100]
	in, err := CompileJSONToAvro(s, JSONOptions{})
	if err != nil {
		t.Fatal(err)
	}
	out, err := CompileAvroToJSON(s, mustParse(t, quakeSchema), JSONOutOptions{})
	if err != nil {
		t.Fatal(err)
	}
	key, err := CompileKey(s, []string{"network", "location.depth_km", "id"})
	if err != nil {
		t.Fatal(err)
	}
	// The scratch memory by hand: sync.Pool drops some of it under the race detector.
	scratch := &jsonRow{options: in.options}
	dst, text, k := make([]byte, 0, 4096), make([]byte, 0, 4096), make([]byte, 0, 4096)
	if n := testing.AllocsPerRun(10, func() {
		for _, row := range rows {
			dst, err = scratch.encode(in.root, dst[:0], row)
			if err != nil {
				t.Fatal(err)
			}
			w := outWriter{src: dst, dst: text[:0], limit: maxJSONRow}
			if w.object(out.root, 0) < 0 {
				t.Fatal("damaged")
			}
			if k, err = key.Append(k[:0], dst); err != nil {
				t.Fatal(err)
			}
		}
	}); n > 0 {
		t.Errorf("%v allocations in %d rows", n, len(rows))
	}
}
