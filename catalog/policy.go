package catalog

import (
	"context"
	"database/sql"
	"encoding/json"
	"fmt"
	"time"

	"github.com/thermocline/thermocline/record"
)

// Policy says what is kept of a branch. It is kept here and not in the table,
// whose refs carry such settings too: some clients erase those. The zero Policy is
// the default.
type Policy struct {
	// Protected: the branch, and with it its stream, cannot be deleted, nor can
	// the branch be reset, before it is no longer protected.
	Protected bool `json:"protected,omitempty"`
	// MaxSnapshotAge is how long a snapshot is kept after it ceased to be the
	// head, MinSnapshots how many of the newest are kept whatever their age. 0:
	// the node's defaults. Whole milliseconds.
	MaxSnapshotAge time.Duration `json:"maxSnapshotAgeNanos,omitempty"`
	MinSnapshots   int           `json:"minSnapshots,omitempty"`
	// ExpireAfter is how long after its last change the branch is deleted; 0:
	// never. Whole milliseconds.
	ExpireAfter time.Duration `json:"expireAfterNanos,omitempty"`
}

// Limits of Policy.
const (
	MinSnapshotAge   = time.Minute
	MinExpireAfter   = time.Second
	MaxPolicyAge     = 100 * 365 * 24 * time.Hour
	MaxKeptSnapshots = 1000
)

// Validate checks every part. Main never expires; that is checked where a branch
// gets its policy.
func (p Policy) Validate() error {
	if p.MaxSnapshotAge != 0 {
		if err := validateInterval("maxSnapshotAge", p.MaxSnapshotAge, MinSnapshotAge, MaxPolicyAge); err != nil {
			return err
		}
	}
	if p.MinSnapshots < 0 || p.MinSnapshots > MaxKeptSnapshots {
		return fmt.Errorf("%w: minSnapshots %d; use 0 (the default) to %d", record.ErrInvalid, p.MinSnapshots, MaxKeptSnapshots)
	}
	if p.ExpireAfter != 0 {
		return validateInterval("expireAfter", p.ExpireAfter, MinExpireAfter, MaxPolicyAge)
	}
	return nil
}

// validateFor checks a policy for the branch of a name.
func (p Policy) validateFor(branch string) error {
	if branch == MainBranch && p.ExpireAfter != 0 {
		return fmt.Errorf("%w: expireAfter on the branch %s, which is never deleted alone", record.ErrInvalid, MainBranch)
	}
	return p.Validate()
}

func (p Policy) encode() (string, error) {
	b, err := json.Marshal(p)
	return string(b), err
}

func decodePolicy(text string) (Policy, error) {
	var p Policy
	err := json.Unmarshal([]byte(text), &p)
	if err == nil {
		err = p.Validate()
	}
	if err != nil {
		return Policy{}, fmt.Errorf("%w: stored policy: %s", record.ErrCorrupt, err.Error())
	}
	return p, nil
}

// Origin is what a branch was made from; zero for one that began empty.
type Origin struct {
	// Branch is the name that the source had, Table its table, Snapshot the
	// table's snapshot that the branch began with, 0 if there was none.
	Branch   string `json:"branch"`
	Table    string `json:"table"`
	Snapshot int64  `json:"snapshot"`
}

func (o Origin) encode() (string, error) {
	if o == (Origin{}) {
		return "", nil
	}
	b, err := json.Marshal(o)
	return string(b), err
}

func decodeOrigin(text string) (o Origin, err error) {
	if text == "" {
		return Origin{}, nil
	}
	if err := json.Unmarshal([]byte(text), &o); err != nil {
		return Origin{}, fmt.Errorf("%w: stored origin: %s", record.ErrCorrupt, err.Error())
	}
	return o, nil
}

// SetPolicy replaces the policy of a branch, based on Version expected.
func (c *Catalog) SetPolicy(ctx context.Context, id BranchID, expected int64, p Policy) (b Branch, err error) {
	err = c.write(ctx, fmt.Sprintf("set the policy of branch %v", id), func(ctx context.Context, tx *sql.Tx) error {
		if b, err = lockBranch(ctx, tx, id, expected); err != nil {
			return err
		}
		if err := p.validateFor(b.Name); err != nil {
			return err
		}
		b.Policy = p
		return updateBranch(ctx, tx, &b, instant(millis(c.now())))
	})
	if err != nil {
		return Branch{}, err
	}
	return b, nil
}

// ExpiringBranches lists the branches of all streams and datasets that expire, with
// what they belong to, by id, those after the given one (0: from the first), at most
// limit (see DefaultPage).
func (c *Catalog) ExpiringBranches(ctx context.Context, after BranchID, limit int) (all []StreamBranch, err error) {
	scan := func(row scanner) (StreamBranch, error) {
		var s streamRow
		var b branchRow
		if err := row.Scan(append(s.dest(), b.dest()...)...); err != nil {
			return StreamBranch{}, err
		}
		out, err := b.branch()
		return StreamBranch{s.stream(), out}, err
	}
	err = c.read(ctx, "list branches that expire", func(ctx context.Context, db *sql.DB) error {
		all, err = collect(ctx, db, scan, `SELECT `+streamColumns+`, `+branchColumns+` FROM branches b
			JOIN streams s ON s.id = b.stream_id JOIN views v ON v.branch_id = b.id AND v.state = 'ACTIVE'
			WHERE b.policy LIKE '%"expireAfterNanos":%' AND b.id > $1 ORDER BY b.id LIMIT $2`, after, pageLimit(limit))
		return err
	})
	return all, err
}

// StreamBranch is a branch with the stream, or dataset, that it belongs to.
type StreamBranch struct {
	Stream Stream
	Branch Branch
}
