package catalog

import _ "github.com/thermocline/thermocline/dataset"
