package api

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strconv"
	"strings"

	"github.com/gin-gonic/gin"

	"github.com/thermocline/thermocline/api/rest"
	"github.com/thermocline/thermocline/reader"
)

// The trailers of a bounded read.
const (
	trailerCursor = "Thermocline-Cursor"
	trailerRows   = "Thermocline-Rows"
	trailerError  = "Thermocline-Error"
)

// ReadRows answers a bounded read.
func (a *API) ReadRows(c *gin.Context, stream, branch string, params rest.ReadRowsParams) {
	name, ok := a.target(c, stream, branch)
	if !ok {
		return
	}
	var asked string
	if params.Format != nil {
		asked = string(*params.Format)
	}
	format, err := negotiate(c, asked, formatNDJSON, formatCSV, formatArrow, formatParquet)
	if err != nil {
		a.fail(c, err)
		return
	}
	q, asText, endLine, err := readRequest(format, params)
	if err != nil {
		a.fail(c, err)
		return
	}
	if !c.Request.ProtoAtLeast(1, 1) && !endLine {
		a.fail(c, &problemError{http.StatusHTTPVersionNotSupported, "HTTP_VERSION_NOT_SUPPORTED",
			"an HTTP/1.0 client or proxy cannot tell a whole answer from a cut one; use HTTP/1.1, or NDJSON with end=line"})
		return
	}
	if err := a.reads.enter("read", name); err != nil {
		a.fail(c, err)
		return
	}
	defer a.reads.leave(name)
	if branch, ok = a.fallback(c, name, branch, params.Fallback); !ok {
		return
	}
	result, err := a.b.Reader.Read(c.Request.Context(), name, branch, q)
	if err != nil {
		a.fail(c, err)
		return
	}
	c.Header(headerBranch, branch)
	out := a.streamWriter(c)
	enc, err := newEncoder(format, out, result.Schema, asText)
	if err != nil {
		a.fail(c, err)
		return
	}
	c.Header("Content-Type", outputTypes[format])
	c.Header("Trailer", trailerCursor+", "+trailerRows+", "+trailerError)
	cursor, rows, err := writeAll(enc, result)
	if err == nil && endLine {
		_, err = fmt.Fprintf(out, "{\"_thermocline\":\"end\",\"cursor\":%q,\"rows\":%d}\n", cursor, rows)
	}
	if err == nil {
		err = out.finish()
	}
	if err != nil {
		a.failRead(c, out, err)
		return
	}
	c.Writer.WriteHeaderNow()
	c.Header(trailerCursor, cursor)
	c.Header(trailerRows, strconv.FormatInt(rows, 10))
}

// writeAll encodes every batch and returns the closing cursor and the number
// of rows.
func writeAll(enc encoder, result *reader.Result) (cursor string, rows int64, err error) {
	for b, err := range result.Batches {
		if err != nil {
			return "", 0, err
		}
		if b.Rows != nil {
			if err := enc.write(b.Rows); err != nil {
				return "", 0, err
			}
			rows += b.Rows.NumRows()
		}
		cursor = b.Next.String()
	}
	return cursor, rows, enc.close()
}

// failRead ends a read that failed. Before the first byte it is a problem like
// any other. Later the answer must not look whole: a client that takes trailers
// gets the problem in one, for any other the connection is cut.
func (a *API) failRead(c *gin.Context, out *streamWriter, err error) {
	begun := out.begun()
	a.fail(c, err)
	if !begun {
		return
	}
	if !takesTrailers(c.Request) || c.Request.Context().Err() != nil {
		cut()
	}
	p, _ := problemOf(err, requestID(c))
	text, err := json.Marshal(p)
	if err != nil {
		cut()
	}
	c.Header(trailerError, ascii(string(text)))
}

func takesTrailers(r *http.Request) bool {
	for _, line := range r.Header.Values("TE") {
		for t := range strings.SplitSeq(line, ",") {
			if strings.EqualFold(strings.TrimSpace(t), "trailers") {
				return true
			}
		}
	}
	return false
}

// ascii escapes what a header cannot hold, within JSON text.
func ascii(text string) string {
	var b strings.Builder
	for _, r := range text {
		switch {
		case r >= 0x20 && r < 0x7f:
			b.WriteRune(r)
		case r > 0xffff:
			b.WriteByte('?')
		default:
			fmt.Fprintf(&b, `\u%04x`, r)
		}
	}
	return b.String()
}

func readRequest(format string, params rest.ReadRowsParams) (q reader.Request, asText, endLine bool, err error) {
	q, asText, err = scanRequest(params.Columns, params.Where, params.Consistency, params.System, (*string)(params.Numbers))
	if err != nil {
		return q, false, false, err
	}
	if params.From != nil && *params.From != "earliest" {
		cursor, err := reader.ParseCursor(*params.From)
		if err != nil {
			return q, false, false, err
		}
		q.From.Cursor = &cursor
	}
	if q.Version, err = versionOf(params); err != nil {
		return q, false, false, err
	}
	if params.Limit != nil {
		if q.Limit = *params.Limit; q.Limit < 1 {
			return q, false, false, invalid("limit %d: want 1 or more, or none for all rows", q.Limit)
		}
	}
	if params.End != nil {
		if endLine = *params.End == rest.ReadRowsParamsEndLine; !params.End.Valid() || endLine && format != formatNDJSON {
			return q, false, false, invalid("end %.40q: want trailer, or line with NDJSON", *params.End)
		}
	}
	return q, asText, endLine, nil
}

// versionOf is the version that a read asks for, nil: what there is now.
func versionOf(params rest.ReadRowsParams) (*reader.Version, error) {
	var v reader.Version
	if params.Snapshot != nil {
		if v.Snapshot = *params.Snapshot; v.Snapshot < 1 {
			return nil, invalid("snapshot %d: want the id of a snapshot", v.Snapshot)
		}
	}
	if params.Tag != nil {
		if v.Tag = *params.Tag; v.Tag == "" {
			return nil, invalid("tag: the name is empty")
		}
	}
	if params.AsOf != nil {
		v.AsOf = *params.AsOf
	}
	if params.Until != nil {
		cursor, err := reader.ParseCursor(*params.Until)
		if err != nil {
			return nil, err
		}
		v.Until = &cursor
	}
	if params.Schema != nil {
		if !params.Schema.Valid() {
			return nil, invalid("schema %.40q: want version or current", *params.Schema)
		}
		v.CurrentSchema = *params.Schema == rest.ReadRowsParamsSchemaCurrent
	}
	if v == (reader.Version{}) {
		return nil, nil
	}
	return &v, nil
}

// scanRequest checks what bounded and held-open reads have in common.
func scanRequest(columns, where *string, consistency *rest.Consistency, system *bool, numbers *string) (q reader.Request, asText bool, err error) {
	if columns != nil {
		for name := range strings.SplitSeq(*columns, ",") {
			if name = strings.TrimSpace(name); name == "" {
				return q, false, invalid("columns %.80q: a name is empty; want names with commas between them", *columns)
			}
			q.Columns = append(q.Columns, name)
		}
	}
	if where != nil {
		q.Where = *where
	}
	if consistency != nil {
		if !consistency.Valid() {
			return q, false, invalid("consistency %.40q: want AT_LEAST_ONCE or EXACTLY_ONCE", *consistency)
		}
		q.Consistency = reader.Consistency(*consistency)
	}
	q.System = system != nil && *system
	if numbers != nil {
		if asText = *numbers == "string"; !asText && *numbers != "number" {
			return q, false, invalid("numbers %.40q: want number or string", *numbers)
		}
	}
	return q, asText, nil
}
