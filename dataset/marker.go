package dataset

import (
	"encoding/json"
	"fmt"
	"strconv"

	"github.com/apache/iceberg-go/table"

	"github.com/thermocline/thermocline/record"
)

// Marker says how far a view has been archived. It is stored in the summary
// of the snapshot that brought the rows, so that rows and offsets become visible
// together; the newest marker among the head's ancestors is the authority.
type Marker struct {
	View       record.ViewID
	ViewNumber record.ViewNumber
	// Epoch is that of the archive lease under which the commit was made.
	Epoch int64
	// Offsets are the first offsets that are not archived.
	Offsets record.Offsets
	// CommitID names the commit, for finding out whether it landed.
	CommitID string
	// Cluster tells a restored copy of a table from its original.
	Cluster string
	// ValidThroughMs: the table holds every row appended up to this time, ms
	// since 1970.
	ValidThroughMs int64
	// SnapshotID is set when the marker was read, and ignored when written.
	SnapshotID int64
}

// Keys of snapshot summaries that are ours.
const (
	offsetsKey      = "thermocline.offsets"
	viewKey         = "thermocline.view"
	viewNumberKey   = "thermocline.view-number"
	epochKey        = "thermocline.epoch"
	commitIDKey     = "thermocline.commit-id"
	clusterKey      = "thermocline.cluster"
	validThroughKey = "thermocline.valid-through-ms"
)

// markerTag pins the snapshot of the newest marker, so that no expiry by
// another engine removes it.
const markerTag = "thermocline-marker"

func (m *Marker) check() error {
	switch {
	case m.View < 1 || m.ViewNumber < 1 || m.Epoch < 0:
		return fmt.Errorf("dataset: marker with view %d, view number %d, epoch %d: %w", m.View, m.ViewNumber, m.Epoch, record.ErrInvalid)
	case m.CommitID == "":
		return fmt.Errorf("dataset: marker without a commit id: %w", record.ErrInvalid)
	case len(m.Offsets) > record.MaxPartitions:
		return fmt.Errorf("dataset: marker with %d partitions: %w", len(m.Offsets), record.ErrInvalid)
	}
	return nil
}

func (m *Marker) properties() (map[string]string, error) {
	offsets, err := m.Offsets.MarshalJSON()
	if err != nil {
		return nil, fmt.Errorf("dataset: marker: %w", err)
	}
	return map[string]string{
		offsetsKey:      string(offsets),
		viewKey:         strconv.FormatInt(int64(m.View), 10),
		viewNumberKey:   strconv.FormatInt(int64(m.ViewNumber), 10),
		epochKey:        strconv.FormatInt(m.Epoch, 10),
		commitIDKey:     m.CommitID,
		clusterKey:      m.Cluster,
		validThroughKey: strconv.FormatInt(m.ValidThroughMs, 10),
	}, nil
}

// hasMarker tells whether the snapshot claims to carry a marker.
func hasMarker(s *table.Snapshot) bool {
	return s.Summary != nil && s.Summary.Properties[offsetsKey] != ""
}

// parseMarker reads the marker of a snapshot; nil if it has none, or one that
// does not parse.
func parseMarker(s *table.Snapshot) *Marker {
	if !hasMarker(s) {
		return nil
	}
	p := s.Summary.Properties
	m := &Marker{CommitID: p[commitIDKey], Cluster: p[clusterKey], SnapshotID: s.SnapshotID}
	view, err1 := strconv.ParseInt(p[viewKey], 10, 64)
	number, err2 := strconv.ParseInt(p[viewNumberKey], 10, 32)
	epoch, err3 := strconv.ParseInt(p[epochKey], 10, 64)
	through, err4 := strconv.ParseInt(p[validThroughKey], 10, 64)
	if err1 != nil || err2 != nil || err3 != nil || err4 != nil || json.Unmarshal([]byte(p[offsetsKey]), &m.Offsets) != nil {
		return nil
	}
	m.View, m.ViewNumber, m.Epoch, m.ValidThroughMs = record.ViewID(view), record.ViewNumber(number), epoch, through
	if m.check() != nil {
		return nil
	}
	return m
}

// Marker returns the newest marker among the head and its ancestors: other
// engines' commits may stand on top. nil if there is none. A newest marker that
// does not parse is ErrCorrupt, because falling back to an older one would
// archive rows twice.
func (t *Table) Marker() (*Marker, error) {
	oldest := t.head
	for s := range t.ancestors() {
		oldest = s
		if hasMarker(s) {
			return t.mustParse(s)
		}
	}
	if oldest == nil || oldest.ParentSnapshotID == nil {
		return nil, nil
	}
	// The chain of parents ends in a snapshot that has expired; the tag has
	// kept the marker.
	s := t.meta.SnapshotByName(markerTag)
	if s == nil {
		return nil, nil
	}
	if t.past && s.SequenceNumber >= oldest.SequenceNumber {
		return nil, nil
	}
	if s.SequenceNumber >= oldest.SequenceNumber {
		// The walk would have met it: the head was rolled back behind it, to
		// where the marker has expired.
		return nil, fmt.Errorf("dataset: table %s: the newest marker (snapshot %d) is not in the history of the head, and older ones have expired; roll forward to it: %w", t.id, s.SnapshotID, record.ErrCorrupt)
	}
	return t.mustParse(s)
}

func (t *Table) mustParse(s *table.Snapshot) (*Marker, error) {
	m := parseMarker(s)
	if m == nil {
		return nil, fmt.Errorf("dataset: table %s: the %s properties of snapshot %d do not parse; restore the snapshot's summary or roll back behind it: %w", t.id, "thermocline.*", s.SnapshotID, record.ErrCorrupt)
	}
	return m, nil
}

// FindCommit looks for a commit id among the head and its ancestors.
func (t *Table) FindCommit(commitID string) (SnapshotInfo, bool) {
	for s := range t.ancestors() {
		if s.Summary != nil && commitID != "" && s.Summary.Properties[commitIDKey] == commitID {
			return snapshotInfo(s), true
		}
	}
	return SnapshotInfo{}, false
}

// moved tells whether committing m changes anything that a marker promises.
func (m *Marker) moved(old *Marker) bool {
	return old == nil || m.View != old.View || m.Epoch != old.Epoch || m.Cluster != old.Cluster || !m.Offsets.Equal(old.Offsets)
}
