package writer

import _ "github.com/thermocline/thermocline/archiver"
