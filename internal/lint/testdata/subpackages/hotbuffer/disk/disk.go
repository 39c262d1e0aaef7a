package disk

import (
	_ "github.com/thermocline/thermocline/dataset/objstore"
	_ "github.com/thermocline/thermocline/hotbuffer"
	_ "github.com/thermocline/thermocline/record"
)
