package hotbuffer

import _ "github.com/thermocline/thermocline/dataset"
