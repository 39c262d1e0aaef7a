package main

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// errEnded: the connection is gone; go on with another one.
var errEnded = errors.New("the connection ended")

// silence is how long a held-open connection may bring nothing: heartbeats come
// every few seconds.
const silence = time.Minute

// reconnecting calls once again and again, with pauses between, until ctx ends
// (nil), once fails for good, or for timeout there was no connection: once calls
// its argument whenever one proves to be alive. broken hears why each one ended.
func reconnecting(ctx context.Context, timeout time.Duration, once func(seen func()) error, broken func(error)) error {
	var pause backoff
	alive := time.Now()
	for {
		err := once(func() {
			alive = time.Now()
			pause.reset()
		})
		switch {
		case ctx.Err() != nil:
			return nil // the user has seen enough
		case !errors.Is(err, errEnded) && !retryable(err):
			return err
		case time.Since(alive) > timeout:
			return fmt.Errorf("no connection for %v: %w", timeout, err)
		}
		broken(err)
		if sleep(ctx, pause.pause(err)) != nil {
			return nil
		}
	}
}
