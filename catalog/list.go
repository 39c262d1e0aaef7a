package catalog

import (
	"context"
	"database/sql"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"strings"

	"github.com/thermocline/thermocline/record"
)

const (
	// DefaultPage is the length of a list if the caller does not say.
	DefaultPage = 100
	// MaxPage bounds the length of a list.
	MaxPage = 1000
)

// pageLimit applies the default and the bound to a caller's limit.
func pageLimit(limit int) int {
	if limit <= 0 {
		return DefaultPage
	}
	return min(limit, MaxPage)
}

// StreamQuery selects streams. The zero value is the first page of all.
type StreamQuery struct {
	Kind      Kind   // empty: all
	Namespace string // empty: all
	Branch    string // that they have; empty: any
	// Search keeps streams whose name or namespace contains it; case does not
	// count. Empty: all.
	Search string
	// Limit is DefaultPage if not positive, and at most MaxPage.
	Limit int
	// PageToken is empty or the Next of the page before. A stream that exists
	// while all pages are read is in exactly one of them.
	PageToken string
}

// StreamPage is one page of streams, ordered by namespace and name.
type StreamPage struct {
	Streams []Stream
	Next    string // the token of the next page; empty: this is the last one
}

// ListStreams lists the streams that exist.
func (c *Catalog) ListStreams(ctx context.Context, q StreamQuery) (StreamPage, error) {
	const op = "list streams"
	limit := pageLimit(q.Limit)
	after, err := parsePageToken(q.PageToken)
	if err != nil {
		return StreamPage{}, failed(op, err)
	}
	// One more than the page tells whether another follows.
	sqlText := `SELECT ` + streamColumns + ` FROM streams s WHERE s.deleted_ms = 0 AND (s.namespace, s.name) > ($1, $2)`
	args := []any{after.Namespace, after.Name, limit + 1}
	if q.Namespace != "" {
		args = append(args, q.Namespace)
		sqlText += fmt.Sprintf(` AND s.namespace = $%d`, len(args))
	}
	if q.Kind != "" {
		args = append(args, q.Kind)
		sqlText += fmt.Sprintf(` AND s.kind = $%d`, len(args))
	}
	if q.Branch != "" && q.Branch != MainBranch {
		args = append(args, q.Branch)
		sqlText += fmt.Sprintf(` AND EXISTS (SELECT 1 FROM branches b WHERE b.stream_id = s.id AND b.name = $%d)`, len(args))
	}
	if q.Search != "" {
		args = append(args, likePattern(q.Search))
		sqlText += fmt.Sprintf(` AND (lower(s.name) LIKE $%[1]d ESCAPE '\' OR lower(s.namespace) LIKE $%[1]d ESCAPE '\')`, len(args))
	}
	sqlText += ` ORDER BY s.namespace, s.name LIMIT $3`

	var page StreamPage
	err = c.read(ctx, op, func(ctx context.Context, db *sql.DB) error {
		page.Streams, err = collect(ctx, db, scanStream, sqlText, args...)
		return err
	})
	if err != nil {
		return StreamPage{}, err
	}
	if len(page.Streams) > limit {
		page.Streams = page.Streams[:limit]
		last := page.Streams[limit-1]
		page.Next = pageToken{last.Namespace, last.Name}.String()
	}
	return page, nil
}

// likePattern matches any text that contains s, whatever its case.
func likePattern(s string) string {
	return "%" + strings.NewReplacer(`\`, `\\`, `%`, `\%`, `_`, `\_`).Replace(strings.ToLower(s)) + "%"
}

// pageToken is the name after which the next page begins. Callers see it encoded
// and do not look into it.
type pageToken struct{ Namespace, Name string }

func (p pageToken) String() string {
	b, _ := json.Marshal([2]string{p.Namespace, p.Name}) // two strings always encode
	return base64.RawURLEncoding.EncodeToString(b)
}

func parsePageToken(s string) (pageToken, error) {
	if s == "" {
		return pageToken{}, nil
	}
	var parts []string
	b, err := base64.RawURLEncoding.DecodeString(s)
	if err == nil {
		err = json.Unmarshal(b, &parts)
	}
	// Only what we gave out: the same text again.
	if err != nil || len(parts) != 2 || (pageToken{parts[0], parts[1]}).String() != s {
		return pageToken{}, fmt.Errorf("%w: page token %q is none of ours; pass the one of the page before, or none", record.ErrInvalid, clip(s))
	}
	return pageToken{parts[0], parts[1]}, nil
}
