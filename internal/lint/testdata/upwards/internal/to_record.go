package internal

import _ "github.com/thermocline/thermocline/record"
