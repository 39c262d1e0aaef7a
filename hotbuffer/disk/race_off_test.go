//go:build !race

package disk

const sweepStep = 1
