package record

import _ "github.com/thermocline/thermocline/schema"
