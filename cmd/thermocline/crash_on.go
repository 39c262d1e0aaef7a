//go:build crashtest

package main

import (
	"os"
	"syscall"

	"github.com/thermocline/thermocline/archiver"
)

// reached kills the process, as kill -9 does, behind the step of the archive
// protocol that THERMOCLINE_CRASH_AT names. For tests; no release has it.
var reached = func(s archiver.Step) {
	if string(s) == os.Getenv("THERMOCLINE_CRASH_AT") {
		_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
		select {}
	}
}
