package bench

import _ "github.com/thermocline/thermocline/cmd"
