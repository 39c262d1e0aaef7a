package predicate

import _ "github.com/thermocline/thermocline/hotbuffer/disk"
