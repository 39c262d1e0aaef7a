package api

import (
	"context"
	"iter"

	"github.com/gin-gonic/gin"

	"github.com/thermocline/thermocline/api/rest"
	"github.com/thermocline/thermocline/reader"
	"github.com/thermocline/thermocline/schema"
)

// TailRows answers a held-open read.
func (a *API) TailRows(c *gin.Context, stream, branch string, params rest.TailRowsParams) {
	name, ok := a.target(c, stream, branch)
	if !ok {
		return
	}
	format, q, asText, err := tailRequest(c, params)
	if err != nil {
		a.fail(c, err)
		return
	}
	if err := a.tails.enter("tail", name); err != nil {
		a.fail(c, err)
		return
	}
	defer a.tails.leave(name)
	if branch, ok = a.fallback(c, name, branch, params.Fallback); !ok {
		return
	}
	marks := format == formatSSE || params.Cursors != nil && *params.Cursors == rest.TailRowsParamsCursorsLine
	a.push(c, format, asText, func(ctx context.Context) (*schema.Schema, iter.Seq2[pushed, error], error) {
		result, err := a.b.Reader.Tail(ctx, name, branch, q)
		if err != nil {
			return nil, nil, err
		}
		c.Header(headerBranch, branch)
		return result.Schema, tailed(result, marks), nil
	})
}

// tailed are the pieces of a tail.
func tailed(result *reader.Result, marks bool) iter.Seq2[pushed, error] {
	return func(yield func(pushed, error) bool) {
		for b, err := range result.Batches {
			p := pushed{rows: b.Rows}
			if err == nil && marks {
				p.mark = markOf(b)
			}
			if !yield(p, err) {
				return
			}
		}
	}
}

func tailRequest(c *gin.Context, params rest.TailRowsParams) (format string, q reader.Request, asText bool, err error) {
	var asked string
	if params.Format != nil {
		asked = string(*params.Format)
	}
	if format, err = negotiate(c, asked, formatNDJSON, formatSSE); err != nil {
		return "", q, false, err
	}
	if q, asText, err = scanRequest(params.Columns, params.Where, params.Consistency, params.System, (*string)(params.Numbers)); err != nil {
		return "", q, false, err
	}
	if params.Cursors != nil && !params.Cursors.Valid() {
		return "", q, false, invalid("cursors %.40q: want none or line", *params.Cursors)
	}
	from := "latest"
	switch {
	case params.LastEventID != nil && *params.LastEventID != "":
		from = *params.LastEventID
	case params.From != nil:
		from = *params.From
	}
	switch from {
	case "latest":
		q.From.Latest = true
	case "earliest":
	default:
		cursor, err := reader.ParseCursor(from)
		if err != nil {
			return "", q, false, err
		}
		q.From.Cursor = &cursor
	}
	return format, q, asText, nil
}
