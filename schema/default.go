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
