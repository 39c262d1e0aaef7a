package record

import "testing"

func TestHeld(t *testing.T) {}
