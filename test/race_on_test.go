//go:build race

package test

// raced: the tests run under the race detector, so the servers do too.
const raced = true
