package node

import (
	"errors"
	"path/filepath"

	"github.com/cockroachdb/pebble/v2/vfs"
)

// makeDir makes a directory and its parents such that a loss of power cannot take
// them back: what is acknowledged lies below. A crash in between leaves fewer of
// them, and nothing acknowledged.
func makeDir(fs vfs.FS, dir string) error {
	var parents []string // of those that are not there, the innermost first
	for at := dir; at != filepath.Dir(at); at = filepath.Dir(at) {
		if _, err := fs.Stat(at); err == nil {
			break
		}
		parents = append(parents, filepath.Dir(at))
	}
	if err := fs.MkdirAll(dir, 0o750); err != nil {
		return err
	}
	for _, parent := range parents {
		d, err := fs.OpenDir(parent)
		if err == nil {
			err = errors.Join(d.Sync(), d.Close())
		}
		if err != nil {
			return err
		}
	}
	return nil
}
