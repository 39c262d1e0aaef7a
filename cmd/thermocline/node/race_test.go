//go:build race

package node

const raceEnabled = true

// stride of fault sweeps: everything costs several times as much here.
const stride = 4
