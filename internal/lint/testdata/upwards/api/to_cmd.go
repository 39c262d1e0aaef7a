package api

import _ "github.com/thermocline/thermocline/cmd"
