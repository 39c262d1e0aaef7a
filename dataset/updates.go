package dataset

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"slices"

	"github.com/apache/iceberg-go"
	"github.com/apache/iceberg-go/table"

	"github.com/thermocline/thermocline/record"
)

// Updates is a change to a table in the terms of Iceberg's REST catalog: what
// must hold of the table as it stands, and what is to become of it. Immutable.
type Updates struct {
	requirements []requirement
	updates      []update
}

// ParseUpdates reads the two arrays of a commit request; nil is an empty one.
// What is unknown or lacks a field is ErrInvalid.
func ParseUpdates(requirements, updates []byte) (*Updates, error) {
	u := &Updates{}
	var err error
	if u.requirements, err = parseRequirements(requirements); err != nil {
		return nil, fmt.Errorf("dataset: requirements: %w: %w", err, record.ErrInvalid)
	}
	if u.updates, err = parseUpdates(updates); err != nil {
		return nil, fmt.Errorf("dataset: updates: %w: %w", err, record.ErrInvalid)
	}
	return u, nil
}

// Creates tells whether the change makes a table that must not exist yet.
func (u *Updates) Creates() bool {
	for _, r := range u.requirements {
		if r.Type == assertCreate {
			return true
		}
	}
	return false
}

// ChangesSchema tells whether the change may give the table another schema.
func (u *Updates) ChangesSchema() bool {
	for _, p := range u.updates {
		if p.Action == table.UpdateAddSchema || p.Action == table.UpdateSetCurrentSchema {
			return true
		}
	}
	return false
}

// ChangesProperty tells whether the change sets or removes a property of the table.
func (u *Updates) ChangesProperty(key string) bool {
	for _, p := range u.updates {
		if _, set := p.Set[key]; (set && p.Action == table.UpdateSetProperties) ||
			(p.Action == table.UpdateRemoveProperties && slices.Contains(p.Removals, key)) {
			return true
		}
	}
	return false
}

// update is one update, of which each attempt makes its own copy: iceberg-go keeps
// pointers into what it applies.
type update struct {
	raw json.RawMessage
	updateBody
}

// updateBody is what is looked at; the rest is between the client and iceberg-go.
type updateBody struct {
	Action      string            `json:"action"`
	UUID        string            `json:"uuid"`
	Format      int               `json:"format-version"`
	Schema      *iceberg.Schema   `json:"schema"`
	Snapshot    *table.Snapshot   `json:"snapshot"`
	RefName     string            `json:"ref-name"`
	RefType     table.RefType     `json:"type"`
	SnapshotID  int64             `json:"snapshot-id"`
	MaxRefAge   *int64            `json:"max-ref-age-ms"`
	MaxSnapAge  *int64            `json:"max-snapshot-age-ms"`
	MinSnapKeep *int              `json:"min-snapshots-to-keep"`
	SnapshotIDs []int64           `json:"snapshot-ids"`
	Location    string            `json:"location"`
	Set         map[string]string `json:"updates"`
	Removals    []string          `json:"removals"`
	Statistics  *statistics       `json:"statistics"`
	PartStats   *statistics       `json:"partition-statistics"`
}

// statistics is a file of them.
type statistics struct {
	Path string `json:"statistics-path"`
}

func parseUpdates(data []byte) ([]update, error) {
	raws, err := rawArray(data)
	if err != nil {
		return nil, err
	}
	out := make([]update, len(raws))
	for i, raw := range raws {
		out[i].raw = raw
		if _, err := out[i].parse(); err != nil {
			return nil, fmt.Errorf("number %d: %w", i+1, err)
		}
		if err := json.Unmarshal(raw, &out[i].updateBody); err != nil {
			return nil, fmt.Errorf("number %d: %w", i+1, err)
		}
	}
	return out, nil
}

// parse makes a fresh copy.
func (u *update) parse() (table.Update, error) {
	var one table.Updates
	list := append(append([]byte{'['}, u.raw...), ']')
	if err := json.Unmarshal(list, &one); err != nil {
		return nil, err
	}
	if len(one) != 1 {
		return nil, errors.New("it is no object")
	}
	return one[0], nil
}

func rawArray(data []byte) ([]json.RawMessage, error) {
	if len(bytes.TrimSpace(data)) == 0 {
		return nil, nil
	}
	var raws []json.RawMessage
	if err := json.Unmarshal(data, &raws); err != nil {
		return nil, err
	}
	return raws, nil
}

// Kinds of requirements.
const (
	assertCreate          = "assert-create"
	assertUUID            = "assert-table-uuid"
	assertRef             = "assert-ref-snapshot-id"
	assertLastFieldID     = "assert-last-assigned-field-id"
	assertSchemaID        = "assert-current-schema-id"
	assertLastPartitionID = "assert-last-assigned-partition-id"
	assertSpecID          = "assert-default-spec-id"
	assertSortOrderID     = "assert-default-sort-order-id"
)

// requirement is what a client says of the table that it saw.
type requirement struct {
	Type            string          `json:"type"`
	UUID            *string         `json:"uuid"`
	Ref             *string         `json:"ref"`
	SnapshotID      json.RawMessage `json:"snapshot-id"`
	LastFieldID     *int            `json:"last-assigned-field-id"`
	SchemaID        *int            `json:"current-schema-id"`
	LastPartitionID *int            `json:"last-assigned-partition-id"`
	SpecID          *int            `json:"default-spec-id"`
	SortOrderID     *int            `json:"default-sort-order-id"`

	snapshot *int64 // of SnapshotID; nil: the ref must not exist
}

func parseRequirements(data []byte) ([]requirement, error) {
	raws, err := rawArray(data)
	if err != nil {
		return nil, err
	}
	out := make([]requirement, len(raws))
	for i, raw := range raws {
		if err := json.Unmarshal(raw, &out[i]); err != nil {
			return nil, fmt.Errorf("number %d: %w", i+1, err)
		}
		if err := out[i].check(); err != nil {
			return nil, fmt.Errorf("number %d: %w", i+1, err)
		}
	}
	return out, nil
}

// check makes sure that what the kind needs is there.
func (r *requirement) check() error {
	missing := false
	switch r.Type {
	case assertCreate:
	case assertUUID:
		missing = r.UUID == nil
	case assertRef:
		if missing = r.Ref == nil || r.SnapshotID == nil; !missing {
			return json.Unmarshal(r.SnapshotID, &r.snapshot)
		}
	case assertLastFieldID:
		missing = r.LastFieldID == nil
	case assertSchemaID:
		missing = r.SchemaID == nil
	case assertLastPartitionID:
		missing = r.LastPartitionID == nil
	case assertSpecID:
		missing = r.SpecID == nil
	case assertSortOrderID:
		missing = r.SortOrderID == nil
	case "":
		return errors.New("it has no type")
	default:
		return fmt.Errorf("unknown requirement type: %.80s", r.Type)
	}
	if missing {
		return fmt.Errorf("%s lacks a field", r.Type)
	}
	return nil
}

// RequirementError is a requirement that the table does not meet: ErrConflict.
type RequirementError struct{ message string }

func (e *RequirementError) Error() string { return "Requirement failed: " + e.message }

// Unwrap implements errors.Unwrap.
func (e *RequirementError) Unwrap() error { return record.ErrConflict }

func unmet(format string, args ...any) error {
	return &RequirementError{fmt.Sprintf(format, args...)}
}

// refs is where a table's refs stand.
func refs(m table.Metadata) map[string]table.SnapshotRef {
	out := map[string]table.SnapshotRef{}
	for name, ref := range m.Refs() {
		out[name] = ref
	}
	return out
}

// holds checks one requirement on the table. lastFieldID is the highest id that
// clients are told.
func (r *requirement) holds(m table.Metadata, lastFieldID int) error {
	number := func(what string, want, is int) error {
		if want != is {
			return unmet("%s changed: expected id %d != %d", what, want, is)
		}
		return nil
	}
	switch r.Type {
	case assertCreate:
		return unmet("table already exists")
	case assertUUID:
		if is := m.TableUUID().String(); *r.UUID != is {
			return unmet("UUID does not match: expected %s != %s", is, *r.UUID)
		}
	case assertRef:
		return r.refHolds(refs(m))
	case assertLastFieldID:
		return number("last assigned field id", *r.LastFieldID, lastFieldID)
	case assertSchemaID:
		return number("current schema", *r.SchemaID, m.CurrentSchema().ID)
	case assertLastPartitionID:
		is := partitionStart - 1
		if last := m.LastPartitionSpecID(); last != nil {
			is = *last
		}
		return number("last assigned partition id", *r.LastPartitionID, is)
	case assertSpecID:
		return number("default partition spec", *r.SpecID, m.DefaultPartitionSpec())
	case assertSortOrderID:
		return number("default sort order", *r.SortOrderID, m.DefaultSortOrder())
	}
	return nil
}

// partitionStart is the first id of a partition field.
const partitionStart = 1000

func (r *requirement) refHolds(refs map[string]table.SnapshotRef) error {
	ref, ok := refs[*r.Ref]
	switch {
	case ok && r.snapshot == nil:
		return unmet("%s %s was created concurrently", ref.SnapshotRefType, *r.Ref)
	case ok && ref.SnapshotID != *r.snapshot:
		return unmet("%s %s has changed: expected id %d != %d", ref.SnapshotRefType, *r.Ref, *r.snapshot, ref.SnapshotID)
	case !ok && r.snapshot != nil:
		return unmet("branch or tag %s is missing, expected %d", *r.Ref, *r.snapshot)
	}
	return nil
}

// FieldIDsTaken is the error for new fields whose ids another branch has taken since
// the client was told the highest.
func FieldIDsTaken(told, now int) error {
	return unmet("last assigned field id changed: expected id %d != %d", told, now)
}
