package schema

import "errors"

// A default is compiled to the Avro datum that stands for an absent field. Few
// bytes of text can describe a long datum (defaults of structs inside arrays),
// so each one and all of a schema are bounded.
const (
	maxDefaultBytes  = 64 << 10
	maxDefaultsBytes = 4 << 20
)

// checkDefault checks that the default of a field is a value of its type, and
// returns the length of its datum.
func checkDefault(path string, f *Field) (int, error) {
	if f.Default == nil {
		return 0, nil
	}
	if string(f.Default) == "null" && !f.Nullable {
		return 0, invalidf(path, "has the default null but is not nullable; make it nullable or change the default")
	}
	datum, err := encodeDefault(path, f, Reject)
	return len(datum), err
}

// defaultDatum is the Avro datum of a nullable or defaulted field that a row
// lacks, with the union branch if it is nullable. Members of a struct's
// default that are not in its schema are dropped: the schema may be a
// projection of the one that the default was written for.
func defaultDatum(path string, f *Field) ([]byte, error) {
	return encodeDefault(path, f, Ignore)
}

func encodeDefault(path string, f *Field, u UnknownFields) ([]byte, error) {
	n, err := compileJSON(path, f)
	if err != nil {
		return nil, err
	}
	return n.encodeDefault(path, f, u)
}

// encodeDefault reads the default of f, which n was compiled of, as a row.
func (n *jsonNode) encodeDefault(path string, f *Field, u UnknownFields) ([]byte, error) {
	if f.Default == nil {
		return []byte{0}, nil // null
	}
	var w rowWriter
	w.begin(nil, maxDefaultBytes)
	var r jsonReference
	err := r.row(&w, n, f.Default, u == Ignore)
	var e *RowError
	if errors.As(err, &e) {
		at := path
		if e.Path != "" {
			at = (&RowError{Path: e.Path}).in(path).Path
		}
		return nil, invalidf(at, "has a default that does not fit: expected %s, got %s", e.Expected, e.Got)
	}
	return w.take(), err
}
