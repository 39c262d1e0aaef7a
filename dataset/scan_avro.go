package dataset

import (
	"context"
	"github.com/apache/iceberg-go"
)

func (s *scanner) avroFile(ctx context.Context, f iceberg.DataFile, deleted []int64) error {
	return nil
}
