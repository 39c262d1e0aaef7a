package branch

import _ "github.com/thermocline/thermocline/reader"
