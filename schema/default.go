package schema

import "errors"

// checkDefault checks that the default of a field is a value of its type.
func checkDefault(path string, f *Field) error {
	if f.Default == nil {
		return nil
	}
	if string(f.Default) == "null" && !f.Nullable {
		return invalidf(path, "has the default null but is not nullable; make it nullable or change the default")
	}
	_, err := encodeDefault(path, f, Reject)
	return err
}

// defaultDatum is the Avro datum of a nullable or defaulted field that a row
// lacks, with the union branch if it is nullable. Members of a struct's
// default that are not in its schema are dropped: the schema may be a
// projection of the one that the default was written for.
func defaultDatum(path string, f *Field) ([]byte, error) {
	if f.Default == nil {
		return []byte{0}, nil
	}
	return encodeDefault(path, f, Ignore)
}

// encodeDefault reads a default as a row of one field.
func encodeDefault(path string, f *Field, u UnknownFields) ([]byte, error) {
	n, err := compileJSON(path, f)
	if err != nil {
		return nil, err
	}
	var w rowWriter
	w.begin(nil, MaxRowBytes)
	var r jsonReference
	err = r.row(&w, n, f.Default, u == Ignore)
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
