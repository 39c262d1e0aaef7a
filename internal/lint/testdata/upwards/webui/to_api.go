package webui

import _ "github.com/thermocline/thermocline/api"
