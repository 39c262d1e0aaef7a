package record

import "errors"

// The errors that callers in other packages tell apart with errors.Is. Wrap
// them with %w and say operation, object and remedy in the text around them.
var (
	// ErrNotFound: the named object does not exist.
	ErrNotFound = errors.New("not found")
	// ErrExists: an object of that name exists already.
	ErrExists = errors.New("already exists")
	// ErrInvalid: the request can never succeed as it is.
	ErrInvalid = errors.New("invalid")
	// ErrConflict: a compare-and-swap lost; reload and decide again.
	ErrConflict = errors.New("conflict")
	// ErrFenced: a newer owner has taken over; the caller must stop.
	ErrFenced = errors.New("fenced by a newer owner")
	// ErrOutOfSequence: a producer's sequence number leaves a gap or is older
	// than what is remembered.
	ErrOutOfSequence = errors.New("producer sequence out of order")
	// ErrOutOfRange: the offset lies before the first or after the last one
	// that is held.
	ErrOutOfRange = errors.New("offset out of range")
	// ErrTooLarge: a stated limit is exceeded.
	ErrTooLarge = errors.New("too large")
	// ErrFull: there is no room for more rows; nothing was appended. Retry
	// after the archiver has made room.
	ErrFull = errors.New("no space left")
	// ErrBusy: a bounded queue is full; retry after a pause.
	ErrBusy = errors.New("busy")
	// ErrCorrupt: stored bytes fail their checksum or contradict themselves.
	ErrCorrupt = errors.New("corrupt")
	// ErrClosed: the object was closed or has failed for good.
	ErrClosed = errors.New("closed")
)
