//go:build !race

package node

const raceEnabled = false

const stride = 1
