package reader

import _ "github.com/thermocline/thermocline/api"
