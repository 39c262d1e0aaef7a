package main

import (
	"fmt"
	"strings"

	"github.com/thermocline/thermocline/api/client"
	"github.com/thermocline/thermocline/schema"
)

// printFields prints the fields of a schema, nested ones by their path.
func (a *app) printFields(v client.SchemaVersion) error {
	s, err := schema.ParseAny(v.Schema)
	if err != nil {
		return fmt.Errorf("the schema in the answer of %s: %w", a.server, err)
	}
	return a.printTable("FIELD TYPE NULLABLE ID", fieldRows(nil, "", s.Fields))
}

func fieldRows(rows [][]string, path string, fields []schema.Field) [][]string {
	for i := range fields {
		rows = fieldRow(rows, strings.TrimPrefix(path+"."+fields[i].Name, "."), &fields[i])
	}
	return rows
}

func fieldRow(rows [][]string, path string, f *schema.Field) [][]string {
	name := f.Type.Kind.String()
	if f.Type.Kind == schema.Decimal {
		name = fmt.Sprintf("%s(%d,%d)", name, f.Type.Precision, f.Type.Scale)
	}
	nullable := "no"
	if f.Nullable {
		nullable = "yes"
	}
	rows = append(rows, []string{path, name, nullable, fmt.Sprint(f.ID)})
	switch f.Type.Kind {
	case schema.Struct:
		return fieldRows(rows, path, f.Type.Fields)
	case schema.Array:
		return fieldRow(rows, path+"[]", f.Type.Element)
	case schema.Map:
		return fieldRow(rows, path+"{}", f.Type.Value)
	}
	return rows
}
