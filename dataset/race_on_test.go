//go:build race

package dataset_test

// raced: the race detector slows everything down several times, so that
// sweeps take fewer steps.
const raced = true
