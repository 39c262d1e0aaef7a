package main

import _ "github.com/thermocline/thermocline/test"
