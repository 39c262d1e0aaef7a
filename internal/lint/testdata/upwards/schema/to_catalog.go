package schema

import _ "github.com/thermocline/thermocline/catalog"
