package reader_test

import (
	"context"

	_ "github.com/thermocline/thermocline/archiver" // external test packages may
)

var _ = context.Background()
