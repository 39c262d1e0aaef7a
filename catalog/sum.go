package catalog

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/thermocline/thermocline/record"
)

// SQLite's pages carry no checksum: a flipped bit in a number is a number. So
// whoever is the last to close the file writes its checksum beside it, and
// Open compares it before anything builds on the file, and removes it. Between
// the two nothing tells a flipped bit, nor after a crash.
//
//	 0  magic "TCCATSUM"
//	 8  size      uint64  of the file
//	16  CRC-32C   uint32  of the file
//	20  CRC-32C   uint32  of bytes 0 to 20
const (
	sumSuffix = ".sum"
	sumMagic  = "TCCATSUM"
	sumSize   = 24
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// sumOf reads the whole file.
func sumOf(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	h := crc32.New(castagnoli)
	n, err := io.Copy(h, f)
	if err != nil {
		return nil, err
	}
	b := append(make([]byte, 0, sumSize), sumMagic...)
	b = binary.BigEndian.AppendUint64(b, uint64(n))
	b = binary.BigEndian.AppendUint32(b, h.Sum32())
	return binary.BigEndian.AppendUint32(b, crc32.Checksum(b, castagnoli)), nil
}

// inUse: somebody has the file open, or died with it open. What was written
// last is in the log beside it.
func inUse(path string) bool {
	_, err := os.Stat(path + "-wal")
	return !errors.Is(err, fs.ErrNotExist)
}

// checkSum compares the file with what it was when it was closed, if that is
// known, and forgets it: from here on the file changes.
func checkSum(path string) error {
	was, err := os.ReadFile(path + sumSuffix)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	whole := len(was) == sumSize && string(was[:len(sumMagic)]) == sumMagic &&
		binary.BigEndian.Uint32(was[20:]) == crc32.Checksum(was[:20], castagnoli)
	if whole && !inUse(path) {
		is, err := sumOf(path)
		if err != nil && !errors.Is(err, fs.ErrNotExist) { // one that is gone is begun anew
			return err
		}
		if err == nil && string(is) != string(was) {
			return fmt.Errorf("%w: the file is not what it was when it was closed; restore it from a backup, or, if it was replaced on purpose, remove %s", record.ErrCorrupt, path+sumSuffix)
		}
	}
	return forgetSum(path)
}

// forgetSum is durable when it returns: the next change of the file may be as
// durable as that.
func forgetSum(path string) error {
	if err := os.Remove(path + sumSuffix); err != nil {
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		return err
	}
	return syncDir(path)
}

// writeSum is for the last one to close the file; it does nothing if another
// process has it open. A crash before it is done leaves no sum.
func writeSum(path string) error {
	if inUse(path) {
		return nil
	}
	b, err := sumOf(path)
	if err != nil {
		return err
	}
	f, err := os.CreateTemp(filepath.Dir(path), filepath.Base(path)+sumSuffix+"-*")
	if err != nil {
		return err
	}
	_, err = f.Write(b)
	err = errors.Join(err, f.Sync(), f.Close())
	if err == nil {
		err = os.Rename(f.Name(), path+sumSuffix)
	}
	if err != nil {
		return errors.Join(err, os.Remove(f.Name()))
	}
	return syncDir(path)
}

func syncDir(path string) error {
	d, err := os.Open(filepath.Dir(path))
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
