package schema

// Dates and timestamps are those of the proleptic Gregorian calendar, UTC. In
// rows they lie in the years 1 to 9999, which every engine can hold; this also
// catches epoch microseconds that were sent where milliseconds are expected.

const (
	secondsPerDay = 86_400
	microsPerDay  = secondsPerDay * 1_000_000

	minDays   = -719_162  // 0001-01-01
	maxDays   = 2_932_896 // 9999-12-31
	minMicros = minDays * microsPerDay
	maxMicros = (maxDays+1)*microsPerDay - 1
)

// timeFault says why a text is no date or timestamp.
type timeFault uint8

const (
	timeFits timeFault = iota
	notTime
	noOffset   // a local time: the offset to UTC is missing
	subMicro   // more than microseconds
	timeBeyond // outside the years 1 to 9999
)

// daysOf is the number of days from 1970-01-01 to a date, for years from 0.
func daysOf(year, month, day int) int64 {
	// Years begin in March here, so that the leap day is the last one.
	if month <= 2 {
		year--
		month += 12
	}
	return int64(365*year+floorDiv(year, 4)-floorDiv(year, 100)+floorDiv(year, 400)+(153*(month-3)+2)/5+day-1) - 719_468
}

func floorDiv(a, b int) int {
	q := a / b
	if a%b < 0 {
		q--
	}
	return q
}

// civil is the date that lies so many days after 1970-01-01.
func civil(days int64) (year int64, month, day int) {
	days += 719_468
	era := days / 146_097
	if days%146_097 < 0 {
		era--
	}
	doe := days - era*146_097
	yoe := (doe - doe/1460 + doe/36_524 - doe/146_096) / 365
	doy := doe - (365*yoe + yoe/4 - yoe/100)
	mp := (5*doy + 2) / 153
	day = int(doy - (153*mp+2)/5 + 1)
	month = int(mp + 3)
	year = yoe + era*400
	if month > 12 {
		month -= 12
		year++
	}
	return year, month, day
}

var monthDays = [...]int{31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31}

// parseDate reads YYYY-MM-DD.
func parseDate(b []byte) (days int64, fault timeFault) {
	if len(b) != 10 || b[4] != '-' || b[7] != '-' {
		return 0, notTime
	}
	y1, y2, month, day := twoDigits(b), twoDigits(b[2:]), twoDigits(b[5:]), twoDigits(b[8:])
	if y1|y2|month|day < 0 || month < 1 || month > 12 || day < 1 {
		return 0, notTime
	}
	year := y1*100 + y2
	if year == 0 {
		return 0, timeBeyond
	}
	last := monthDays[month-1]
	if month == 2 && year%4 == 0 && (year%100 != 0 || year%400 == 0) {
		last = 29
	}
	if day > last {
		return 0, notTime
	}
	return daysOf(year, month, day), timeFits
}

// parseTimestamp reads ISO-8601 as RFC 3339 narrows it: YYYY-MM-DD, then T or
// a blank, hh:mm:ss, up to 9 digits of a fraction, and Z or an offset (+hh:mm,
// +hhmm or +hh). Digits below the microsecond must be 0.
func parseTimestamp(b []byte) (micros int64, fault timeFault) {
	if len(b) < 19 || b[10]|0x20 != 't' && b[10] != ' ' || b[13] != ':' || b[16] != ':' {
		return 0, notTime
	}
	days, fault := parseDate(b[:10])
	if fault != timeFits {
		return 0, fault
	}
	h, m, s := twoDigits(b[11:]), twoDigits(b[14:]), twoDigits(b[17:])
	if h|m|s < 0 || h > 23 || m > 59 || s > 59 {
		return 0, notTime
	}
	micros = days*microsPerDay + int64(h*3600+m*60+s)*1_000_000
	i := 19
	if i < len(b) && b[i] == '.' {
		unit := int64(100_000)
		for i++; i < len(b) && isDigit(b[i]); i++ {
			if i >= 20+9 {
				return 0, subMicro
			}
			if unit == 0 && b[i] != '0' {
				return 0, subMicro
			}
			micros += int64(b[i]-'0') * unit
			unit /= 10
		}
		if i == 20 {
			return 0, notTime
		}
	}
	offset, fault := parseOffset(b[i:])
	if fault != timeFits {
		return 0, fault
	}
	micros -= offset
	if micros < minMicros || micros > maxMicros {
		return 0, timeBeyond
	}
	return micros, timeFits
}

// parseOffset reads Z, +hh:mm, +hhmm or +hh as microseconds east of UTC.
func parseOffset(b []byte) (micros int64, fault timeFault) {
	if len(b) == 0 {
		return 0, noOffset
	}
	if len(b) == 1 && b[0]|0x20 == 'z' {
		return 0, timeFits
	}
	if b[0] != '+' && b[0] != '-' || len(b) < 3 {
		return 0, notTime
	}
	h, m := twoDigits(b[1:]), 0
	switch rest := b[3:]; {
	case len(rest) == 3 && rest[0] == ':':
		m = twoDigits(rest[1:])
	case len(rest) == 2:
		m = twoDigits(rest)
	case len(rest) != 0:
		return 0, notTime
	}
	if h|m < 0 || h > 23 || m > 59 {
		return 0, notTime
	}
	micros = int64(h*60+m) * 60_000_000
	if b[0] == '-' {
		micros = -micros
	}
	return micros, timeFits
}

// twoDigits reads two decimal digits, negative if they are none.
func twoDigits(b []byte) int {
	hi, lo := b[0]-'0', b[1]-'0'
	if hi > 9 || lo > 9 {
		return -1
	}
	return int(hi)*10 + int(lo)
}

// appendDate appends YYYY-MM-DD; years outside 0 to 9999, which only foreign
// writers can have stored, get a sign and at least six digits.
func appendDate(dst []byte, days int64) []byte {
	year, month, day := civil(days)
	if year < 0 || year > 9999 {
		sign := byte('+')
		if year < 0 {
			sign, year = '-', -year
		}
		dst = append(dst, sign)
		dst = appendPadded(dst, year, 6)
	} else {
		dst = appendPadded(dst, year, 4)
	}
	dst = append(dst, '-', byte('0'+month/10), byte('0'+month%10), '-', byte('0'+day/10), byte('0'+day%10))
	return dst
}

// appendTimestamp appends YYYY-MM-DDThh:mm:ssZ, with a fraction of three
// digits if the time has whole milliseconds and of six if it has not.
func appendTimestamp(dst []byte, micros int64) []byte {
	days := micros / microsPerDay
	rest := micros % microsPerDay
	if rest < 0 {
		days--
		rest += microsPerDay
	}
	dst = appendDate(dst, days)
	s, fraction := int(rest/1_000_000), rest%1_000_000
	h, m, s := s/3600, s/60%60, s%60
	dst = append(dst, 'T', byte('0'+h/10), byte('0'+h%10), ':', byte('0'+m/10), byte('0'+m%10), ':', byte('0'+s/10), byte('0'+s%10))
	switch {
	case fraction == 0:
	case fraction%1000 == 0:
		dst = appendPadded(append(dst, '.'), fraction/1000, 3)
	default:
		dst = appendPadded(append(dst, '.'), fraction, 6)
	}
	return append(dst, 'Z')
}

// appendPadded appends v ≥ 0 with at least that many digits.
func appendPadded(dst []byte, v int64, width int) []byte {
	var b [20]byte
	i := len(b)
	for n := 0; n < width || v > 0; n++ {
		i--
		b[i] = byte('0' + v%10)
		v /= 10
	}
	return append(dst, b[i:]...)
}
