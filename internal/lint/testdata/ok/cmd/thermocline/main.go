package main

import (
	"context"

	_ "github.com/thermocline/thermocline/api"
	_ "github.com/thermocline/thermocline/hotbuffer/disk"
)

func main() { _ = context.Background() }
