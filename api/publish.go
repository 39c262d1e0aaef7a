package api

import (
	"fmt"
	"net/http"

	"github.com/gin-gonic/gin"

	"github.com/thermocline/thermocline/api/rest"
	"github.com/thermocline/thermocline/hotbuffer"
	"github.com/thermocline/thermocline/writer"
)

// formats maps the media types of a publish request.
var formats = map[string]writer.Format{
	"application/json":                    writer.JSON,
	"application/x-ndjson":                writer.JSON,
	"application/ndjson":                  writer.JSON,
	"application/jsonl":                   writer.JSON,
	"application/avro":                    writer.Avro,
	"avro/binary":                         writer.Avro,
	"application/vnd.apache.avro":         writer.Avro,
	"application/vnd.apache.arrow.stream": writer.Arrow,
}

// PublishRows appends the rows of the body.
func (a *API) PublishRows(c *gin.Context, stream, branch string, params rest.PublishRowsParams) {
	name, ok := a.target(c, stream, branch)
	if !ok {
		return
	}
	q, err := publishRequest(name, branch, mediaType(c), params)
	if err != nil {
		a.fail(c, err)
		return
	}
	if err := a.publishes.enter("publish to", name); err != nil {
		a.fail(c, err)
		return
	}
	defer a.publishes.leave(name)
	b, err := a.readBody(c, name)
	if err != nil {
		a.fail(c, err)
		return
	}
	defer b.release()
	q.Body = b.buf
	result, err := a.b.Publisher.Publish(c.Request.Context(), q)
	if err != nil {
		a.fail(c, err)
		return
	}
	writeJSON(c, http.StatusOK, rest.PublishResult{
		Rows:         result.Rows,
		Ranges:       offsetRanges(result.Ranges),
		Duplicate:    result.Duplicate,
		RejectedRows: result.RejectedRows,
		Rejected:     rowErrors(result.Rejected),
	})
}

func publishRequest(stream, branch, contentType string, params rest.PublishRowsParams) (writer.Request, error) {
	q := writer.Request{Stream: stream, Branch: branch}
	var ok bool
	if q.Format, ok = formats[contentType]; !ok {
		return q, &problemError{http.StatusUnsupportedMediaType, "UNSUPPORTED_MEDIA_TYPE", fmt.Sprintf(
			"Content-Type %.80q is not served; send application/json, application/x-ndjson, application/avro or application/vnd.apache.arrow.stream", contentType)}
	}
	if p := params.OnError; p != nil {
		if !p.Valid() {
			return q, invalid("onError %.40q: want reject or skip", *p)
		}
		q.SkipInvalid = *p == rest.PublishRowsParamsOnErrorSkip
	}
	if p := params.UnknownFields; p != nil {
		if !p.Valid() {
			return q, invalid("unknownFields %.40q: want reject or ignore", *p)
		}
		q.IgnoreUnknown = *p == rest.PublishRowsParamsUnknownFieldsIgnore
	}
	id, sequence, key := params.ProducerID, params.ProducerSequence, params.IdempotencyKey
	switch {
	case (id == nil) != (sequence == nil):
		return q, invalid("Producer-Id and Producer-Sequence need each other; send both or none")
	case id != nil && key != nil:
		return q, invalid("send either Producer-Id with Producer-Sequence or Idempotency-Key, not both")
	case params.ProducerEpoch != nil && id == nil:
		return q, invalid("Producer-Epoch needs Producer-Id and Producer-Sequence")
	}
	if id != nil {
		p := writer.Producer{Name: *id, Sequence: *sequence}
		if params.ProducerEpoch != nil {
			p.Epoch = *params.ProducerEpoch
		}
		if len(p.Name) < 1 || len(p.Name) > 200 || p.Sequence < 0 || p.Epoch < 0 {
			return q, invalid("Producer-Id: want 1 to 200 bytes; Producer-Sequence and Producer-Epoch: want 0 or more")
		}
		q.Producer = &p
	}
	if key != nil {
		if q.IdempotencyKey = *key; len(*key) < 1 || len(*key) > 200 {
			return q, invalid("Idempotency-Key: want 1 to 200 bytes")
		}
	}
	return q, nil
}

func offsetRanges(in []hotbuffer.PartRange) []rest.OffsetRange {
	out := make([]rest.OffsetRange, len(in))
	for i, r := range in {
		out[i] = rest.OffsetRange{Partition: int32(r.Partition), Start: int64(r.Start), End: int64(r.End)}
	}
	return out
}

// GetProducer shows the newest request of a producer.
func (a *API) GetProducer(c *gin.Context, stream, branch, producer string) {
	name, ok := a.target(c, stream, branch)
	if !ok {
		return
	}
	p, err := a.b.Producers.Producer(c.Request.Context(), name, branch, producer)
	if err != nil {
		a.fail(c, err)
		return
	}
	out := rest.Producer{Producer: producer, Epoch: p.Epoch, Sequence: p.Sequence, Ranges: offsetRanges(p.Ranges)}
	for _, r := range p.Ranges {
		out.Rows += r.Len()
	}
	writeJSON(c, http.StatusOK, out)
}
