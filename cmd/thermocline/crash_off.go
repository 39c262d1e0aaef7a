//go:build !crashtest

package main

import "github.com/thermocline/thermocline/archiver"

// reached is set by builds with the tag crashtest only.
var reached func(archiver.Step)
