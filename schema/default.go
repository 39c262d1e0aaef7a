package schema

// checkDefault checks that the default of a field is a value of its type.
func checkDefault(path string, f *Field) error {
	if f.Default == nil {
		return nil
	}
	if string(f.Default) == "null" && !f.Nullable {
		return invalidf(path, "has the default null but is not nullable; make it nullable or change the default")
	}

	return nil
}

// defaultDatum is the Avro datum of a nullable or defaulted field that a row
// lacks, with the union branch if it is nullable.
func defaultDatum(path string, f *Field) ([]byte, error) {
	if f.Default == nil {
		return []byte{0}, nil
	}
	return nil, invalidf(path, "has a default; defaults are not compiled yet")
}
