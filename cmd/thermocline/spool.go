package main

import (
	"fmt"
	"io"
	"os"
)

// spoolMemory is how much of an epoch is held in memory; what is more goes into
// a temporary file: a subscriber that was away for days gets all it missed as
// one epoch.
const spoolMemory = 16 << 20

// spool holds rows back. The zero value is empty.
type spool struct {
	memory []byte
	file   *os.File // nil until it is needed
	stored int64    // bytes in file, which come before memory
}

func (s *spool) add(b []byte) error {
	if len(s.memory) > 0 && len(s.memory)+len(b) > spoolMemory {
		if err := s.spill(); err != nil {
			return fmt.Errorf("hold back the rows of an epoch: %w", err)
		}
	}
	s.memory = append(s.memory, b...)
	return nil
}

func (s *spool) spill() error {
	if s.file == nil {
		var err error
		if s.file, err = os.CreateTemp("", "thermocline-epoch-*.ndjson"); err != nil {
			return err
		}
		// Without a name it goes with the process, however that ends. Where
		// the system refuses that, close removes it.
		_ = os.Remove(s.file.Name())
	}
	n, err := s.file.WriteAt(s.memory, s.stored)
	if err != nil {
		return err
	}
	s.stored += int64(n)
	s.memory = s.memory[:0]
	return nil
}

// release writes everything and is empty then.
func (s *spool) release(write func([]byte) error) error {
	if s.stored > 0 {
		if _, err := io.Copy(writer(write), io.NewSectionReader(s.file, 0, s.stored)); err != nil {
			return err
		}
	}
	if len(s.memory) > 0 {
		if err := write(s.memory); err != nil {
			return err
		}
	}
	s.drop()
	return nil
}

type writer func([]byte) error

func (w writer) Write(p []byte) (int, error) {
	if err := w(p); err != nil {
		return 0, err
	}
	return len(p), nil
}

func (s *spool) drop() {
	s.memory, s.stored = s.memory[:0], 0
	if cap(s.memory) > spoolMemory {
		s.memory = nil
	}
}

func (s *spool) close() {
	if s.file != nil {
		_ = s.file.Close()
		_ = os.Remove(s.file.Name())
	}
}
