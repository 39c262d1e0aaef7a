package dataset_test

import (
	"context"
	"testing"

	"github.com/google/uuid"

	"github.com/thermocline/thermocline/dataset"
	"github.com/thermocline/thermocline/dataset/objstore"
	"github.com/thermocline/thermocline/record"
)

// TestSwapDeliveredTwice: a swap that is delivered twice, and of which only the
// second answer arrives, looks like a lost race. It was won, and the files that
// the pointer stands at must not be taken for those of a loser.
func TestSwapDeliveredTwice(t *testing.T) {
	t.Parallel()
	e := newMemEnv(t)
	e.create(numbers())
	e.addNumbers(0, 10)
	e.pointers.afterSwap = func(err error) error {
		if err == nil {
			err = record.ErrConflict
		}
		return err
	}
	e.addNumbers(10, 20)
	e.pointers.afterSwap = nil
	e.wantOffsets(e.load(), 20)
	e.addNumbers(20, 30)
	e.wantOffsets(e.load(), 30)
}

// twicePointers create everything twice and give the second answer.
type twicePointers struct{ *pointers }

func (p twicePointers) CreateTablePointer(ctx context.Context, id, location string) error {
	_ = p.pointers.CreateTablePointer(ctx, id, location)
	return p.pointers.CreateTablePointer(ctx, id, location)
}

// TestCreateDeliveredTwice is the same for the first pointer of a table.
func TestCreateDeliveredTwice(t *testing.T) {
	t.Parallel()
	e := newMemEnv(t)
	e.d = dataset.New(e.store, twicePointers{e.pointers}, dataset.Options{})
	e.id = uuid.NewString()
	table := e.create(numbers())
	key, err := objstore.Key(e.store, table.MetadataLocation())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := e.store.Stat(t.Context(), key); err != nil {
		t.Fatalf("the table's metadata: %v", err)
	}
	_, err = e.d.Create(t.Context(), e.id, numbers(), nil)
	wantIs(t, err, record.ErrExists)
	e.wantOffsets(e.load(), 0)
}
