package disk

import (
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"os"

	"github.com/cockroachdb/pebble/v2/vfs"
)

// The file LOG says that a log has begun, so that a directory whose segments
// are all unreadable is never taken for a new one; and it is a second place
// for the log's id. It is written once, after the first checkpoint:
//
//	 0  magic "TCHOTLOG"
//	 8  CRC-32C  uint32  of bytes 12 to 32
//	12  version  uint32
//	16  log id   16 bytes
const (
	identityName  = "LOG"
	identityMagic = 0x5443_484f_544c_4f47
	identitySize  = 32
)

// readIdentity tells whether the log has begun; id is nil if the file is
// damaged.
func readIdentity(fs vfs.FS, dir string) (id *logID, begun bool, err error) {
	f, err := fs.Open(fs.PathJoin(dir, identityName))
	if errors.Is(err, os.ErrNotExist) {
		return nil, false, nil
	}
	if err != nil {
		return nil, false, err
	}
	b := make([]byte, identitySize)
	_, err = f.ReadAt(b, 0)
	if err := errors.Join(ignoreEOF(err), f.Close()); err != nil {
		return nil, false, fmt.Errorf("read %s: %w", identityName, err)
	}
	if be.Uint64(b) != identityMagic || be.Uint32(b[8:]) != crc32.Checksum(b[12:], castagnoli) || be.Uint32(b[12:]) != formatVersion {
		return nil, true, nil
	}
	id = new(logID)
	copy(id[:], b[16:])
	return id, true, nil
}

// writeIdentity writes the file LOG.
func writeIdentity(fs vfs.FS, dir string, dirFile vfs.File, id *logID) error {
	b := make([]byte, identitySize)
	be.PutUint64(b, identityMagic)
	be.PutUint32(b[12:], formatVersion)
	copy(b[16:], id[:])
	be.PutUint32(b[8:], crc32.Checksum(b[12:], castagnoli))
	return writeFile(fs, dir, dirFile, identityName, b)
}

// writeFile replaces a file durably: a crash leaves the old one or the new one.
func writeFile(fs vfs.FS, dir string, dirFile vfs.File, base string, b []byte) error {
	name := fs.PathJoin(dir, base)
	f, err := fs.Create(name+".new", writeCategory)
	if err != nil {
		return err
	}
	_, err = f.Write(b)
	if err == nil {
		err = f.Sync()
	}
	if err := errors.Join(err, f.Close()); err != nil {
		return err
	}
	if err := fs.Rename(name+".new", name); err != nil {
		return err
	}
	return dirFile.Sync()
}

func ignoreEOF(err error) error {
	if errors.Is(err, io.EOF) {
		return nil
	}
	return err
}
