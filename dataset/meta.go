package dataset

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"path"
	"regexp"
	"strconv"
	"strings"

	"github.com/apache/iceberg-go/table"
	"github.com/google/uuid"

	"github.com/thermocline/thermocline/dataset/objstore"
	"github.com/thermocline/thermocline/record"
)

// Names of metadata files, manifest lists and manifests are never reused: each
// has a fresh UUID. Iceberg gives these files no checksum, so the UUID carries
// one: version 8 (custom), of which the first four bytes are the CRC-32C of the
// file, big-endian, and the rest is random. Files of other engines have
// random UUIDs (version 4) or none, and are read unchecked.
//
//	  0               4       6   8       16
//	  +---------------+-------+---+-------+
//	  | CRC-32C       | rand  |8rr| rand  |
//	  +---------------+-------+---+-------+

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// sumName returns a fresh UUID that vouches for data.
func sumName(data []byte) string {
	u := uuid.New()
	binary.BigEndian.PutUint32(u[:4], crc32.Checksum(data, castagnoli))
	u[6] = u[6]&0x0f | 0x80
	return u.String()
}

var uuidPattern = regexp.MustCompile(`[0-9a-f]{8}-[0-9a-f]{4}-8[0-9a-f]{3}-[0-9a-f]{4}-[0-9a-f]{12}`)

// checkSum compares data with the checksum in the name of its file, if there
// is one. ErrCorrupt.
func checkSum(location string, data []byte) error {
	m := uuidPattern.FindString(path.Base(location))
	if m == "" {
		return nil
	}
	u, err := uuid.Parse(m)
	if err != nil {
		return nil
	}
	if want, got := binary.BigEndian.Uint32(u[:4]), crc32.Checksum(data, castagnoli); want != got {
		return fmt.Errorf("dataset: %s: CRC-32C of %d bytes is %08x, its name says %08x: %w", location, len(data), got, want, record.ErrCorrupt)
	}
	return nil
}

// errMissing marks errors over files that a table names and that are not there:
// damage, unless an erasure has put others into their place.
var errMissing = fmt.Errorf("no such file: %w", record.ErrCorrupt)

// missing tells damage from a version that is gone: ErrBusy if rows were erased
// since t was loaded.
func (t *Table) missing(ctx context.Context, err error) error {
	if !errors.Is(err, errMissing) {
		return err
	}
	now, loadErr := t.d.Load(ctx, t.id)
	if loadErr == nil && now.Property(erasedKey) != t.Property(erasedKey) {
		return fmt.Errorf("dataset: rows of table %s were erased while it was read; read again: %w", t.id, record.ErrBusy)
	}
	return err
}

// MetadataExists tells whether the table's metadata file is in the store.
func (t *Table) MetadataExists(ctx context.Context) (bool, error) {
	key, err := objstore.Key(t.d.store, t.location)
	if err != nil {
		return false, fmt.Errorf("dataset: %w", err)
	}
	_, err = t.d.store.Stat(ctx, key)
	if errors.Is(err, record.ErrNotFound) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("dataset: look for %s: %w", t.location, err)
	}
	return true, nil
}

// maxMetaBytes bounds a metadata file or manifest that is read.
const maxMetaBytes = 512 << 20

// readMeta reads a small immutable file whole and verifies it. A file that a
// table names and that is not there is damage too.
func (d *Datasets) readMeta(ctx context.Context, location string) ([]byte, error) {
	key, err := objstore.Key(d.store, location)
	if err != nil {
		return nil, fmt.Errorf("dataset: %w", err)
	}
	data, err := objstore.Get(ctx, d.store, key, maxMetaBytes)
	if errors.Is(err, record.ErrNotFound) {
		return nil, fmt.Errorf("dataset: %s is named by a table but missing: %w", location, errMissing)
	}
	if err != nil {
		return nil, fmt.Errorf("dataset: read %s: %w", location, err)
	}
	return data, checkSum(location, data)
}

// loadMetadata returns the table at location, from the cache if it is there.
func (d *Datasets) loadMetadata(ctx context.Context, id, location string) (*Table, error) {
	if m, ok := d.metas.get(location); ok {
		return newTable(d, id, location, m), nil
	}
	data, err := d.readMeta(ctx, location)
	if err != nil {
		return nil, err
	}
	m, err := parseMetadata(location, data)
	if err != nil {
		return nil, err
	}
	d.metas.put(location, m, int64(len(data)))
	return newTable(d, id, location, m), nil
}

func parseMetadata(location string, data []byte) (table.Metadata, error) {
	m, err := table.ParseMetadataBytes(data)
	if err != nil {
		return nil, fmt.Errorf("dataset: parse %s: %w: %w", location, err, record.ErrCorrupt)
	}
	if m.Version() != formatVersion {
		return nil, fmt.Errorf("dataset: %s has Iceberg format version %d; only %d is supported: %w", location, m.Version(), formatVersion, record.ErrInvalid)
	}
	return m, nil
}

// formatVersion is the Iceberg format of all tables.
const formatVersion = 2

// encodeMetadata names and serialises the metadata file that comes after the
// one at previous ("" if none).
func encodeMetadata(m table.Metadata, previous string) (location string, data []byte, err error) {
	data, err = json.Marshal(m)
	if err != nil {
		return "", nil, fmt.Errorf("dataset: encode table metadata: %w", err)
	}
	version := 0
	if digits, _, ok := strings.Cut(path.Base(previous), "-"); ok {
		if v, err := strconv.Atoi(digits); err == nil && v >= 0 {
			version = v + 1
		}
	}
	return fmt.Sprintf("%s/metadata/%05d-%s.metadata.json", m.Location(), version, sumName(data)), data, nil
}

// put stores a new object at location.
func (d *Datasets) put(ctx context.Context, location string, data []byte) error {
	key, err := objstore.Key(d.store, location)
	if err != nil {
		return fmt.Errorf("dataset: %w", err)
	}
	if err := objstore.Put(ctx, d.store, key, data); err != nil {
		return fmt.Errorf("dataset: write %s: %w", location, err)
	}
	return nil
}

// remove deletes objects that certainly nothing refers to. Failing leaves
// orphans, which an orphan listing finds.
func (d *Datasets) remove(ctx context.Context, locations []string) {
	for _, l := range locations {
		if key, err := objstore.Key(d.store, l); err == nil {
			_ = d.store.Delete(ctx, key)
		}
	}
}
