package node

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"

	"github.com/thermocline/thermocline/catalog"
	"github.com/thermocline/thermocline/dataset/objstore"
	"github.com/thermocline/thermocline/hotbuffer"
	"github.com/thermocline/thermocline/hotbuffer/disk"
	"github.com/thermocline/thermocline/record"
	"github.com/thermocline/thermocline/verify"
)

// newVerifier checks what the parts hold.
func newVerifier(c *catalog.Catalog, log *disk.Log, files objstore.Store) *verify.Verifier {
	return verify.New(verify.Options{
		Catalog: c, Buffer: log, Store: files,
		Damage: func() []disk.Damage { return log.LogStats().Damage },
	})
}

// Stopped is the data directory of a server that does not run, open to be checked.
type Stopped struct {
	*verify.Verifier
	lock    io.Closer
	catalog *catalog.Catalog
	log     *disk.Log
}

// OpenStopped opens a data directory that no server has open (record.ErrBusy), for
// checks alone: no view is dropped, no table is made, nothing is archived. The hot
// log does what every opening of it does: it cuts a torn tail, which holds nothing
// that was acknowledged. warehouse is that of Options. record.ErrNotFound where there is
// no data directory.
func OpenStopped(ctx context.Context, dir string, warehouse objstore.Store, logger *slog.Logger) (_ *Stopped, err error) {
	if dir, err = filepath.Abs(dir); err != nil {
		return nil, fmt.Errorf("open data directory: %w", err)
	}
	for _, part := range []string{catalogFile, logDir} {
		if _, err := os.Stat(filepath.Join(dir, part)); errors.Is(err, fs.ErrNotExist) {
			return nil, fmt.Errorf("open data directory %s: it has no %s; name the directory that serve --data was given: %w", dir, part, record.ErrNotFound)
		}
	}
	s := &Stopped{}
	defer func() {
		if err != nil {
			err = errors.Join(fmt.Errorf("open data directory %s: %w", dir, err), s.Close())
		}
	}()
	if s.lock, err = lock(filepath.Join(dir, lockFile)); err != nil {
		return nil, err
	}
	if s.catalog, err = catalog.Open(ctx, catalog.Options{Path: filepath.Join(dir, catalogFile)}); err != nil {
		return nil, err
	}
	if s.log, err = disk.Open(filepath.Join(dir, logDir), disk.Options{SegmentBytes: smallestSegment(filepath.Join(dir, logDir)), Logger: logger}); err != nil {
		return nil, err
	}
	files, err := openWarehouse(ctx, s.catalog, warehouse, dir)
	if err != nil {
		return nil, err
	}
	for after := record.ViewID(0); ; {
		views, err := s.catalog.LiveViews(ctx, after, catalog.MaxPage)
		if err != nil {
			return nil, err
		}
		for _, v := range views {
			after = v.ID
			// More partitions may hold rows than a damaged catalog says.
			settings := hotbuffer.Settings{Type: hotbuffer.LowLatency, Partitions: v.Partitions}
			if err := s.log.Open(ctx, v.ID, settings); errors.Is(err, record.ErrInvalid) {
				settings.Partitions = record.MaxPartitions
				err = s.log.Open(ctx, v.ID, settings)
				if err != nil {
					return nil, err
				}
			} else if err != nil && !errors.Is(err, record.ErrNotFound) {
				return nil, err
			}
		}
		if len(views) < catalog.MaxPage {
			break
		}
	}
	s.Verifier = newVerifier(s.catalog, s.log, files)
	return s, nil
}

// smallestSegment is the size of a segment file that is there, so that a small log
// is not made large by looking at it; 0: the log's default.
func smallestSegment(dir string) int64 {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return 0
	}
	size := int64(0)
	for _, e := range entries {
		info, err := e.Info()
		if err != nil || filepath.Ext(e.Name()) != ".seg" {
			continue
		}
		if n := info.Size(); n > 0 && (size == 0 || n < size) {
			size = n
		}
	}
	if size > 256<<20 || size%4096 != 0 {
		return 0
	}
	return size
}

// Close releases the directory. Idempotent.
func (s *Stopped) Close() error {
	err := closeParts(s.log, s.catalog, s.lock)
	s.lock = nil
	return err
}
