package api

import (
	"net/http"
	"strconv"
	"time"

	"github.com/gin-gonic/gin"

	"github.com/thermocline/thermocline/api/rest"
	"github.com/thermocline/thermocline/record"
)

// ArchiveNow archives what is durable.
func (a *API) ArchiveNow(c *gin.Context, stream, branch string) {
	name, ok := a.target(c, stream, branch)
	if !ok {
		return
	}
	begin := time.Now()
	got, err := a.b.Archiver.ArchiveNow(c.Request.Context(), name, branch)
	if err != nil {
		a.fail(c, err)
		return
	}
	out := rest.ArchiveResult{
		SnapshotID: snapshotID(got.SnapshotID), Rows: got.Rows, Files: got.Files, Bytes: got.Bytes,
		Seconds: time.Since(begin).Seconds(), Offsets: map[string]int64{}, MetadataLocation: got.MetadataLocation,
	}
	for p, o := range got.Offsets {
		out.Offsets[strconv.Itoa(p)] = int64(o)
	}
	writeJSON(c, http.StatusOK, out)
}

// GetOffsets shows how far each partition is stored and archived.
func (a *API) GetOffsets(c *gin.Context, stream, branch string) {
	name, ok := a.target(c, stream, branch)
	if !ok {
		return
	}
	got, err := a.b.Archiver.Offsets(c.Request.Context(), name, branch)
	if err != nil {
		a.fail(c, err)
		return
	}
	out := rest.Offsets{View: int32(got.View), LagRows: got.Lag.Rows, LagSeconds: got.Lag.Age.Seconds(), Partitions: make([]rest.PartitionOffsets, len(got.End))}
	for i := range got.End {
		p := record.Partition(i)
		out.Partitions[i] = rest.PartitionOffsets{Partition: int32(p), Start: int64(got.Start.At(p)), Archived: int64(got.Archived.At(p)), End: int64(got.End.At(p))}
	}
	writeJSON(c, http.StatusOK, out)
}

// ListSnapshots lists the dataset's history.
func (a *API) ListSnapshots(c *gin.Context, stream, branch string, params rest.ListSnapshotsParams) {
	name, ok := a.target(c, stream, branch)
	if !ok {
		return
	}
	p, err := page(params.Limit, params.PageToken)
	if err != nil {
		a.fail(c, err)
		return
	}
	got, err := a.b.Datasets.Snapshots(c.Request.Context(), name, branch, p)
	if err != nil {
		a.fail(c, err)
		return
	}
	out := rest.SnapshotList{MetadataLocation: got.MetadataLocation, Snapshots: make([]rest.Snapshot, len(got.Snapshots)), NextPageToken: optional(got.Next)}
	for i, s := range got.Snapshots {
		if s.Summary == nil {
			s.Summary = map[string]string{}
		}
		out.Snapshots[i] = rest.Snapshot{
			ID: strconv.FormatInt(s.ID, 10), ParentID: snapshotID(s.ParentID), SequenceNumber: s.SequenceNumber, CommittedAt: s.CommittedAt,
			Operation: s.Operation, SchemaID: s.SchemaID, AddedRows: s.AddedRows, AddedFiles: s.AddedFiles,
			TotalRows: s.TotalRows, TotalFiles: s.TotalFiles, TotalBytes: s.TotalBytes, Summary: s.Summary,
		}
	}
	writeJSON(c, http.StatusOK, out)
}

// ListDataFiles lists the data files of a snapshot.
func (a *API) ListDataFiles(c *gin.Context, stream, branch string, params rest.ListDataFilesParams) {
	name, ok := a.target(c, stream, branch)
	if !ok {
		return
	}
	p, err := page(params.Limit, params.PageToken)
	if err != nil {
		a.fail(c, err)
		return
	}
	var snapshot int64
	if params.Snapshot != nil {
		if snapshot, err = strconv.ParseInt(*params.Snapshot, 10, 64); err != nil || snapshot <= 0 {
			a.fail(c, invalid("snapshot %.40q: want the id of a snapshot, as the list of snapshots has it", *params.Snapshot))
			return
		}
	}
	got, err := a.b.Datasets.DataFiles(c.Request.Context(), name, branch, snapshot, p)
	if err != nil {
		a.fail(c, err)
		return
	}
	out := rest.DataFileList{SnapshotID: snapshotID(got.SnapshotID), Files: make([]rest.DataFile, len(got.Files)), NextPageToken: optional(got.Next)}
	for i, f := range got.Files {
		out.Files[i] = rest.DataFile{Path: f.Path, Format: f.Format, Rows: f.Rows, Bytes: f.Bytes, SnapshotID: snapshotID(f.SnapshotID), SequenceNumber: optional(f.SequenceNumber)}
	}
	writeJSON(c, http.StatusOK, out)
}
