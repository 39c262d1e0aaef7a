package catalog

import (
	"fmt"
	"strconv"
	"strings"

	"github.com/thermocline/thermocline/record"
)

const (
	// DefaultNamespace is the namespace of a stream named without one.
	DefaultNamespace = "default"
	// MainBranch is the first branch of every stream.
	MainBranch = "main"
	// MaxNameLen bounds namespaces, and names of streams and branches.
	MaxNameLen = 128
)

// StreamID identifies a stream for ever, also after it was deleted. From 1.
type StreamID int64

func (s StreamID) String() string { return "s" + strconv.FormatInt(int64(s), 10) }

// BranchID identifies a branch among those of all streams, for ever. From 1.
type BranchID int64

func (b BranchID) String() string { return "b" + strconv.FormatInt(int64(b), 10) }

// ParseName splits "name" or "namespace.name" and checks both parts.
func ParseName(s string) (namespace, name string, err error) {
	namespace, name, dotted := strings.Cut(s, ".")
	if !dotted {
		namespace, name = DefaultNamespace, s
	}
	if strings.Contains(name, ".") {
		return "", "", fmt.Errorf("%w: stream name %q has more than one dot; write name or namespace.name", record.ErrInvalid, clip(s))
	}
	if err := ValidateName("namespace", namespace); err != nil {
		return "", "", err
	}
	if err := ValidateName("stream name", name); err != nil {
		return "", "", err
	}
	return namespace, name, nil
}

// ValidateName checks a namespace, or the name of a stream or branch: a letter or
// underscore, then letters, digits, underscores and hyphens, all ASCII, at most
// MaxNameLen. what says which of them it is, for the error.
func ValidateName(what, s string) error {
	if s == "" {
		return fmt.Errorf("%w: the %s is empty", record.ErrInvalid, what)
	}
	if len(s) > MaxNameLen {
		return fmt.Errorf("%w: the %s %q has %d characters; at most %d are allowed", record.ErrInvalid, what, clip(s), len(s), MaxNameLen)
	}
	for i := range len(s) {
		c := s[i]
		letter := 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || c == '_'
		if !letter && (i == 0 || (c < '0' || '9' < c) && c != '-') {
			return fmt.Errorf("%w: the %s %q has %q at position %d; it must begin with a letter or underscore and go on with letters, digits, underscores and hyphens",
				record.ErrInvalid, what, s, []rune(s[i:])[0], i)
		}
	}
	return nil
}

// ValidateTagName checks the name of a tag: letters, digits, underscores, dots and
// hyphens, all ASCII, 1 to MaxNameLen, at least one of them a letter: digits alone
// are a snapshot.
func ValidateTagName(s string) error {
	letters := 0
	for i := range len(s) {
		switch c := s[i]; {
		case 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z':
			letters++
		case '0' <= c && c <= '9', c == '.', c == '_', c == '-':
		default:
			return fmt.Errorf("%w: the tag name %q has %q at position %d; use letters, digits, underscores, dots and hyphens",
				record.ErrInvalid, clip(s), []rune(s[i:])[0], i)
		}
	}
	if letters == 0 || len(s) > MaxNameLen {
		return fmt.Errorf("%w: the tag name %q; use letters, digits, underscores, dots and hyphens, at least one letter and at most %d characters", record.ErrInvalid, clip(s), MaxNameLen)
	}
	return nil
}

// clip shortens what a caller sent for an error text.
func clip(s string) string {
	if len(s) > 40 {
		return s[:40] + "…"
	}
	return s
}
