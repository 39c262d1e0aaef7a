package reader

import (
	"image/draw"

	_ "github.com/thermocline/thermocline/dataset/objstore"
	_ "github.com/thermocline/thermocline/hotbuffer"
)

// Background of another package is none of this rule.
var _ = draw.Background
