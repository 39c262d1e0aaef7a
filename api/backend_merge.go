package api

import (
	"context"

	"github.com/thermocline/thermocline/branch"
	"github.com/thermocline/thermocline/dataset"
)

// Merger compares and merges branches, of streams and of datasets without one;
// *branch.Directory is one, and its errors and semantics count.
type Merger interface {
	Compare(ctx context.Context, stream, branch, other string, c branch.Compare) (dataset.Comparison, error)
	// Merge is durable when it returns.
	Merge(ctx context.Context, stream, branch string, m branch.Merge) (dataset.Merged, error)
}
