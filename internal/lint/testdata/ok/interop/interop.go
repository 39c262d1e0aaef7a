package interop

import _ "github.com/thermocline/thermocline/api" // another module: its go.mod decides
