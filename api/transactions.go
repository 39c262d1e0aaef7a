package api

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/gin-gonic/gin"
	"github.com/google/uuid"

	"github.com/thermocline/thermocline/api/rest"
	"github.com/thermocline/thermocline/catalog"
	"github.com/thermocline/thermocline/dataset"
	"github.com/thermocline/thermocline/record"
	"github.com/thermocline/thermocline/schema"
	"github.com/thermocline/thermocline/transaction"
	"github.com/thermocline/thermocline/writer"
)

// Transactions change datasets without a stream; *transaction.Transactions is one.
type Transactions interface {
	Begin(ctx context.Context, r transaction.Ref, n transaction.Begin) (catalog.Transaction, error)
	Get(ctx context.Context, r transaction.Ref, id string) (catalog.Transaction, error)
	List(ctx context.Context, r transaction.Ref, q catalog.TransactionQuery) ([]catalog.Transaction, error)
	Remove(ctx context.Context, r transaction.Ref, id string, paths []string) (catalog.Transaction, error)
	Commit(ctx context.Context, r transaction.Ref, id string) (catalog.Transaction, error)
	Abort(ctx context.Context, r transaction.Ref, id string) (catalog.Transaction, error)
}

// Uploads brings files into transactions; *transaction.Transactions is one.
type Uploads interface {
	Upload(ctx context.Context, r transaction.Ref, id string, up transaction.Upload) (transaction.File, error)
	Once(ctx context.Context, r transaction.Ref, n transaction.Begin, up transaction.Upload) (catalog.Transaction, error)
}

// Heads moves the heads of datasets without a stream; *transaction.Transactions is
// one.
type Heads interface {
	Rollback(ctx context.Context, r transaction.Ref, snapshot int64) (*dataset.Table, error)
	CherryPick(ctx context.Context, r transaction.Ref, snapshot int64) (*dataset.Table, error)
}

// maxUploads bounds the Parquet uploads under way, each of which holds some
// megabytes. uploadTimeout bounds one.
const (
	maxUploads    = 4
	uploadTimeout = time.Hour
)

func (a *API) dataset(c *gin.Context, stream, branch string) (transaction.Ref, bool) {
	name, ok := a.target(c, stream, branch)
	return transaction.Ref{Dataset: name, Branch: branch}, ok
}

// transactionID refuses what can be none.
func transactionID(id string) error {
	if u, err := uuid.Parse(id); err != nil || u.String() != id {
		return invalid("transaction %.40q: want the id of a transaction", id)
	}
	return nil
}

func toTransaction(t catalog.Transaction) rest.Transaction {
	out := rest.Transaction{
		ID: t.ID, Type: rest.TransactionType(t.Type), State: rest.TransactionState(t.State), Where: optional(t.Filter),
		Files: int64(t.Files), Rows: t.Rows, Bytes: t.Bytes, SnapshotID: snapshotID(t.Snapshot), CreatedAt: t.Created,
	}
	if !t.Ended.IsZero() {
		out.EndedAt = &t.Ended
	}
	return out
}

func (a *API) answerTransaction(c *gin.Context, status int, t catalog.Transaction, err error) {
	if err != nil {
		a.fail(c, err)
		return
	}
	writeJSON(c, status, toTransaction(t))
}

func idempotencyKey(key *string) (string, error) {
	if key == nil {
		return "", nil
	}
	if len(*key) < 1 || len(*key) > 200 {
		return "", invalid("Idempotency-Key: want 1 to 200 bytes")
	}
	return *key, nil
}

// BeginTransaction opens a transaction.
func (a *API) BeginTransaction(c *gin.Context, stream, branch string, params rest.BeginTransactionParams) {
	ref, ok := a.dataset(c, stream, branch)
	if !ok {
		return
	}
	var in rest.BeginTransaction
	err := a.readJSON(c, &in, false)
	if err != nil {
		a.fail(c, err)
		return
	}
	n := transaction.Begin{Type: catalog.TransactionType(in.Type)}
	if in.Where != nil {
		n.Filter = *in.Where
	}
	if n.Key, err = idempotencyKey(params.IdempotencyKey); err != nil {
		a.fail(c, err)
		return
	}
	t, err := a.b.Transactions.Begin(c.Request.Context(), ref, n)
	a.answerTransaction(c, http.StatusCreated, t, err)
}

// ListTransactions lists transactions; a page token is the last one's time and id.
func (a *API) ListTransactions(c *gin.Context, stream, branch string, params rest.ListTransactionsParams) {
	ref, ok := a.dataset(c, stream, branch)
	if !ok {
		return
	}
	p, err := page(params.Limit, params.PageToken)
	if err != nil {
		a.fail(c, err)
		return
	}
	q := catalog.TransactionQuery{Limit: p.Size}
	if params.State != nil {
		if !params.State.Valid() {
			a.fail(c, invalid("state %.40q: want OPEN, COMMITTED or ABORTED", *params.State))
			return
		}
		q.State = catalog.TransactionState(*params.State)
	}
	if p.Token != "" {
		if q.Before, q.BeforeID, err = parseTransactionToken(p.Token); err != nil {
			a.fail(c, err)
			return
		}
	}
	list, err := a.b.Transactions.List(c.Request.Context(), ref, q)
	if err != nil {
		a.fail(c, err)
		return
	}
	out := rest.TransactionList{Transactions: make([]rest.Transaction, len(list))}
	for i, t := range list {
		out.Transactions[i] = toTransaction(t)
	}
	if len(list) == p.Size {
		last := list[len(list)-1]
		token := base64.RawURLEncoding.EncodeToString(fmt.Appendf(nil, "%d.%s", last.Created.UnixMilli(), last.ID))
		out.NextPageToken = &token
	}
	writeJSON(c, http.StatusOK, out)
}

func parseTransactionToken(token string) (time.Time, string, error) {
	text, err := base64.RawURLEncoding.DecodeString(token)
	ms, id, ok := strings.Cut(string(text), ".")
	at, err2 := strconv.ParseInt(ms, 10, 64)
	if err != nil || err2 != nil || !ok || transactionID(id) != nil {
		return time.Time{}, "", invalid("page token %.40q is none of this list; leave it out to begin", token)
	}
	return time.UnixMilli(at), id, nil
}

// onTransaction does something with a transaction and answers with it.
func (a *API) onTransaction(c *gin.Context, stream, branch, id string, do func(ref transaction.Ref) (catalog.Transaction, error)) {
	ref, ok := a.dataset(c, stream, branch)
	if !ok {
		return
	}
	if err := transactionID(id); err != nil {
		a.fail(c, err)
		return
	}
	t, err := do(ref)
	a.answerTransaction(c, http.StatusOK, t, err)
}

// GetTransaction shows a transaction.
func (a *API) GetTransaction(c *gin.Context, stream, branch, id string) {
	a.onTransaction(c, stream, branch, id, func(ref transaction.Ref) (catalog.Transaction, error) {
		return a.b.Transactions.Get(c.Request.Context(), ref, id)
	})
}

// CommitTransaction makes a transaction visible.
func (a *API) CommitTransaction(c *gin.Context, stream, branch, id string) {
	a.onTransaction(c, stream, branch, id, func(ref transaction.Ref) (catalog.Transaction, error) {
		return a.b.Transactions.Commit(c.Request.Context(), ref, id)
	})
}

// AbortTransaction gives a transaction up.
func (a *API) AbortTransaction(c *gin.Context, stream, branch, id string) {
	a.onTransaction(c, stream, branch, id, func(ref transaction.Ref) (catalog.Transaction, error) {
		return a.b.Transactions.Abort(c.Request.Context(), ref, id)
	})
}

// RemoveFiles names files that a DELETE removes.
func (a *API) RemoveFiles(c *gin.Context, stream, branch, id string) {
	var in rest.RemoveFiles
	if err := a.readJSON(c, &in, false); err != nil {
		a.fail(c, err)
		return
	}
	if len(in.Paths) < 1 || len(in.Paths) > 1000 {
		a.fail(c, invalid("paths: %d of them; want 1 to 1000", len(in.Paths)))
		return
	}
	a.onTransaction(c, stream, branch, id, func(ref transaction.Ref) (catalog.Transaction, error) {
		return a.b.Transactions.Remove(c.Request.Context(), ref, id, in.Paths)
	})
}

// UploadFile uploads the body into a transaction.
func (a *API) UploadFile(c *gin.Context, stream, branch, id string, params rest.UploadFileParams) {
	ref, ok := a.dataset(c, stream, branch)
	if !ok {
		return
	}
	err := transactionID(id)
	if err == nil && params.UnknownFields != nil && !params.UnknownFields.Valid() {
		err = invalid("unknownFields %.40q: want reject or ignore", *params.UnknownFields)
	}
	if err != nil {
		a.fail(c, err)
		return
	}
	ignore := params.UnknownFields != nil && *params.UnknownFields == rest.UploadFileParamsUnknownFieldsIgnore
	up, done, err := a.upload(c, ref, ignore)
	if err != nil {
		a.fail(c, err)
		return
	}
	defer done()
	if params.Name != nil {
		up.Name = *params.Name
	}
	f, err := a.b.Uploads.Upload(c.Request.Context(), ref, id, up)
	if err != nil {
		a.fail(c, err)
		return
	}
	writeJSON(c, http.StatusOK, rest.UploadedFile{Name: f.Name, Rows: f.Rows, Bytes: f.Bytes, Duplicate: f.Duplicate})
}

// UploadDataset uploads the body in a transaction of its own.
func (a *API) UploadDataset(c *gin.Context, stream, branch string, params rest.UploadDatasetParams) {
	ref, ok := a.dataset(c, stream, branch)
	if !ok {
		return
	}
	n := transaction.Begin{Type: catalog.TransactionAppend}
	var err error
	if p := params.Type; p != nil {
		n.Type = catalog.TransactionType(*p)
		if !p.Valid() {
			err = invalid("type %.40q: want APPEND or SNAPSHOT", *p)
		}
	}
	if p := params.UnknownFields; err == nil && p != nil && !p.Valid() {
		err = invalid("unknownFields %.40q: want reject or ignore", *p)
	}
	if err == nil {
		n.Key, err = idempotencyKey(params.IdempotencyKey)
	}
	if err != nil {
		a.fail(c, err)
		return
	}
	ignore := params.UnknownFields != nil && *params.UnknownFields == rest.UploadDatasetParamsUnknownFieldsIgnore
	up, done, err := a.upload(c, ref, ignore)
	if err != nil {
		a.fail(c, err)
		return
	}
	defer done()
	t, err := a.b.Uploads.Once(c.Request.Context(), ref, n, up)
	a.answerTransaction(c, http.StatusOK, t, err)
}

// upload prepares the request's body for an upload; done gives back what it holds.
func (a *API) upload(c *gin.Context, ref transaction.Ref, ignoreUnknown bool) (up transaction.Upload, done func(), err error) {
	contentType := mediaType(c)
	if contentType == "application/vnd.apache.parquet" || contentType == "application/x-parquet" {
		return a.uploadParquet(c, ref)
	}
	q := writer.Request{Stream: ref.Dataset, Branch: ref.Branch, IgnoreUnknown: ignoreUnknown}
	var ok bool
	if q.Format, ok = formats[contentType]; !ok {
		return up, nil, &problemError{http.StatusUnsupportedMediaType, "UNSUPPORTED_MEDIA_TYPE", fmt.Sprintf(
			"Content-Type %.80q is not served; send application/json, application/x-ndjson, application/avro, application/vnd.apache.arrow.stream or application/vnd.apache.parquet", contentType)}
	}
	if err := a.publishes.enter("upload to", ref.Dataset); err != nil {
		return up, nil, err
	}
	b, err := a.readBody(c, ref.Dataset)
	if err != nil {
		a.publishes.leave(ref.Dataset)
		return up, nil, err
	}
	q.Body = b.buf
	up.Rows = func(ctx context.Context, s *schema.Schema, use func(*record.Rows) error) error {
		return writer.Decode(ctx, s, q, func(d writer.Decoded) error { return use(d.Rows) })
	}
	return up, func() { b.release(); a.publishes.leave(ref.Dataset) }, nil
}

// uploadParquet streams the body.
func (a *API) uploadParquet(c *gin.Context, ref transaction.Ref) (up transaction.Upload, done func(), err error) {
	if e := strings.TrimSpace(c.GetHeader("Content-Encoding")); e != "" && e != "identity" {
		return up, nil, &problemError{http.StatusUnsupportedMediaType, "UNSUPPORTED_MEDIA_TYPE", fmt.Sprintf("Content-Encoding %.80q is not served for Parquet, which is compressed inside; send none", e)}
	}
	if c.Request.ContentLength > dataset.MaxImportBytes {
		return up, nil, fmt.Errorf("a Parquet file of %d bytes; at most %d are taken, send several: %w", c.Request.ContentLength, int64(dataset.MaxImportBytes), record.ErrTooLarge)
	}
	select {
	case a.uploads <- struct{}{}:
	default:
		return up, nil, fmt.Errorf("upload to %s: %d Parquet uploads are under way; try again when one has ended: %w", ref, maxUploads, record.ErrBusy)
	}
	body := a.timedReader(c, dataset.MaxImportBytes+1, uploadTimeout)
	up.Parquet = uploadBody{body}
	return up, func() { body.done(); <-a.uploads }, nil
}

// uploadBody tells what a failed read means.
type uploadBody struct{ *timedBody }

func (b uploadBody) Read(p []byte) (int, error) {
	n, err := b.timedBody.Read(p)
	if err != nil && !errors.Is(err, io.EOF) {
		err = bodyError(err)
	}
	return n, err
}

// RollbackDataset makes an older snapshot the newest.
func (a *API) RollbackDataset(c *gin.Context, stream, branch string) {
	a.moveHead(c, stream, branch, a.b.Heads.Rollback)
}

// CherryPickSnapshot adds an append that was left behind.
func (a *API) CherryPickSnapshot(c *gin.Context, stream, branch string) {
	a.moveHead(c, stream, branch, a.b.Heads.CherryPick)
}

func (a *API) moveHead(c *gin.Context, stream, branch string, do func(context.Context, transaction.Ref, int64) (*dataset.Table, error)) {
	ref, ok := a.dataset(c, stream, branch)
	if !ok {
		return
	}
	var in rest.SnapshotChoice
	if err := a.readJSON(c, &in, false); err != nil {
		a.fail(c, err)
		return
	}
	id, err := strconv.ParseInt(in.SnapshotID, 10, 64)
	if err != nil || id <= 0 {
		a.fail(c, invalid("snapshotId %.40q: want the id of a snapshot, as the list of snapshots has it", in.SnapshotID))
		return
	}
	t, err := do(c.Request.Context(), ref, id)
	if err != nil {
		a.fail(c, err)
		return
	}
	head, _ := t.Head()
	writeJSON(c, http.StatusOK, rest.SnapshotChange{SnapshotID: snapshotID(head.ID), MetadataLocation: t.MetadataLocation(), TotalRows: head.TotalRows})
}
