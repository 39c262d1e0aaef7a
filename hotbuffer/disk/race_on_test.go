//go:build race

package disk

// sweepStep thins sweeps out where the race detector makes them slow.
const sweepStep = 20
