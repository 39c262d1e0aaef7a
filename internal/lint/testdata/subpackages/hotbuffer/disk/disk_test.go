package disk

import _ "github.com/thermocline/thermocline/catalog" // a test inside the package is no exception
