package test

import _ "github.com/thermocline/thermocline/record"
