package dataset

import _ "github.com/thermocline/thermocline/catalog"
