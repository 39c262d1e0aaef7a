package archiver

import _ "github.com/thermocline/thermocline/branch"
