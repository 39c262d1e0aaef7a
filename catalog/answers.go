package catalog

import (
	"context"
	"database/sql"
	"fmt"
	"time"

	"github.com/thermocline/thermocline/record"
)

// AnswerLifetime is how long an answer is remembered at least.
const AnswerLifetime = 24 * time.Hour

const (
	// maxAnswers bounds the answers that are remembered; beyond it the oldest go.
	maxAnswers = 100_000
	// maxAnswerBytes bounds one of them.
	maxAnswerBytes = 256 << 10
)

// Answer is what a request with an idempotency key was told.
type Answer struct {
	// Status is 0 while the request is under way, or if its process ended first.
	Status int
	Body   string
}

// BeginAnswer notes that the request with the key is under way. Known: the key was
// there already, and Answer tells how far it came. record.ErrConflict if it came
// with another request.
func (c *Catalog) BeginAnswer(ctx context.Context, key, fingerprint string) (a Answer, known bool, err error) {
	op := "remember request " + clip(key)
	err = c.write(ctx, op, func(ctx context.Context, tx *sql.Tx) error {
		now := c.now()
		if _, err := tx.ExecContext(ctx, `DELETE FROM answers WHERE created_ms < $1`, millis(now.Add(-2*AnswerLifetime))); err != nil {
			return err
		}
		made, err := changed(ctx, tx, `INSERT INTO answers (id, fingerprint, status, body, created_ms) VALUES ($1, $2, 0, '', $3) ON CONFLICT DO NOTHING`,
			key, fingerprint, millis(now))
		if err != nil {
			return err
		}
		if known = made == 0; !known {
			return nil
		}
		var before string
		if err := tx.QueryRowContext(ctx, `SELECT fingerprint, status, body FROM answers WHERE id = $1`, key).Scan(&before, &a.Status, &a.Body); err != nil {
			return err
		}
		if before != fingerprint {
			return fmt.Errorf("%w: the key came with another request before; use a new one", record.ErrConflict)
		}
		return nil
	})
	return a, known, err
}

// EndAnswer remembers the answer to the request with the key.
func (c *Catalog) EndAnswer(ctx context.Context, key string, a Answer) error {
	op := "remember the answer to " + clip(key)
	if len(a.Body) > maxAnswerBytes {
		return failed(op, fmt.Errorf("%w: it has %d bytes", record.ErrTooLarge, len(a.Body)))
	}
	return c.write(ctx, op, func(ctx context.Context, tx *sql.Tx) error {
		if _, err := tx.ExecContext(ctx, `UPDATE answers SET status = $1, body = $2 WHERE id = $3`, a.Status, a.Body, key); err != nil {
			return err
		}
		_, err := tx.ExecContext(ctx, `DELETE FROM answers WHERE created_ms < (SELECT created_ms FROM answers ORDER BY created_ms DESC LIMIT 1 OFFSET $1)`, maxAnswers)
		return err
	})
}

// ForgetAnswer forgets a request that may be made anew. Idempotent.
func (c *Catalog) ForgetAnswer(ctx context.Context, key string) error {
	return c.write(ctx, "forget request "+clip(key), func(ctx context.Context, tx *sql.Tx) error {
		_, err := tx.ExecContext(ctx, `DELETE FROM answers WHERE id = $1`, key)
		return err
	})
}
