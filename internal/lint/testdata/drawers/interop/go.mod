module github.com/thermocline/thermocline/interop
