package catalog

import (
	"errors"
	"strings"
	"testing"

	"github.com/thermocline/thermocline/record"
)

func TestBindWarehouse(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	if err := f.BindWarehouse(t.Context(), ""); !errors.Is(err, record.ErrInvalid) {
		t.Errorf("an empty warehouse: %v", err)
	}
	for range 2 {
		if err := f.BindWarehouse(t.Context(), "s3://a/b/"); err != nil {
			t.Fatal(err)
		}
	}
	for _, other := range []string{"s3://a/", "s3://a/b/c/", "file:///a/"} {
		err := f.BindWarehouse(t.Context(), other)
		if !errors.Is(err, record.ErrConflict) || !strings.Contains(err.Error(), "s3://a/b/") {
			t.Errorf("%s: %v", other, err)
		}
	}
}
