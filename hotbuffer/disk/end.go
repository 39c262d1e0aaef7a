package disk

import (
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/thermocline/thermocline/record"
)

// The file END says where the log ended when it was closed, so that whatever is
// missing at the next start is known exactly, even the newest segment: damage
// to the end of a log is otherwise not to be told from a torn tail. It is
// written behind the last commit and removed, durably, before the next one; so
// it is never there when it is not true.
//
//	 0  magic "TCLOGEND"
//	 8  CRC-32C  uint32  of the rest
//	12  version  uint32
//	16  number   uint64  of the last commit
//	24  the payload of a views frame (checkpoint.go)
const (
	endName       = "END"
	endMagic      = 0x5443_4c4f_4745_4e44
	endHeaderSize = 24
	// maxEnd bounds what is read of a file that may be anything.
	maxEnd = 256 << 20
)

// logEnd is what the file END says.
type logEnd struct {
	commit uint64
	views  []viewState
}

func (e *logEnd) encode(id *logID) []byte {
	b := make([]byte, endHeaderSize)
	be.PutUint64(b, endMagic)
	be.PutUint32(b[12:], formatVersion)
	be.PutUint64(b[16:], e.commit)
	b = appendViews(b, e.views)
	be.PutUint32(b[8:], id.sum(b[12:]))
	return b
}

func decodeEnd(b []byte, id *logID) (*logEnd, error) {
	switch {
	case len(b) < endHeaderSize || be.Uint64(b) != endMagic:
		return nil, fmt.Errorf("not an end of a log: %w", record.ErrCorrupt)
	case be.Uint32(b[8:]) != id.sum(b[12:]):
		return nil, fmt.Errorf("checksum does not match: %w", record.ErrCorrupt)
	case be.Uint32(b[12:]) != formatVersion:
		return nil, fmt.Errorf("format version %d, this program knows %d: %w", be.Uint32(b[12:]), formatVersion, record.ErrInvalid)
	}
	views, err := decodeViews(b[endHeaderSize:])
	if err != nil {
		return nil, err
	}
	return &logEnd{commit: be.Uint64(b[16:]), views: views}, nil
}

// readEnd returns nil if the log was not closed, or by a process that could not
// write the file; ErrCorrupt if it does not validate.
func readEnd(fs vfs.FS, dir string, id *logID) (*logEnd, error) {
	f, err := fs.Open(fs.PathJoin(dir, endName))
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	b, err := io.ReadAll(io.LimitReader(f, maxEnd))
	if err := errors.Join(err, f.Close()); err != nil {
		return nil, fmt.Errorf("read %s: %w", endName, err)
	}
	return decodeEnd(b, id)
}

// writeEnd is called behind the last commit. Should it fail, or a crash come
// before it is done, the next start looks for a torn tail as after a crash.
func (l *Log) writeEnd() {
	if l.poison() != nil {
		return
	}
	e := logEnd{commit: l.commit}
	l.mu.RLock()
	for _, v := range l.views {
		e.views = append(e.views, v.state())
	}
	l.mu.RUnlock()
	if err := writeFile(l.o.FS, l.dir, l.stock.dirFile, endName, e.encode(&l.id)); err != nil {
		l.o.Logger.Warn("hot log: cannot write where it ends", "dir", l.dir, "error", err)
	}
}

// removeEnd goes before the first commit.
func removeEnd(fs vfs.FS, dir string, dirFile vfs.File) error {
	err := fs.Remove(fs.PathJoin(dir, endName))
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	return dirFile.Sync()
}
