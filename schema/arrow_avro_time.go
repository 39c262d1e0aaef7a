package schema

import (
	"math"
	"strconv"

	"github.com/apache/arrow-go/v18/arrow"
)

// time is value i of a date column in days, or of a timestamp column in
// microseconds.
func (s *source) time(i int) (v int64, fault numberFault) {
	v, _ = s.integer(i)
	div, mul := int64(1), int64(1)
	switch {
	case s.value == arrow.DATE64:
		div = secondsPerDay * 1000
	case s.value == arrow.DATE32 || s.unit == arrow.Microsecond:
	case s.unit == arrow.Nanosecond:
		div = 1000
	case s.unit == arrow.Millisecond:
		mul = 1000
	case s.unit == arrow.Second:
		mul = 1_000_000
	}
	switch {
	case v%div != 0:
		return 0, lossy
	case v > math.MaxInt64/mul || v < math.MinInt64/mul:
		return 0, outOfRange
	}
	return v / div * mul, fits
}

// timeUnit names the unit of a date or timestamp column.
func (s *source) timeUnit() string {
	switch s.value {
	case arrow.DATE32:
		return "days"
	case arrow.DATE64:
		return "ms"
	}
	return s.unit.String()
}

// number prints value i of an integer, date or timestamp column.
func (s *source) number(i int) string {
	v, ok := s.integer(i)
	if !ok {
		return strconv.FormatUint(uint64(v), 10)
	}
	return strconv.FormatInt(v, 10)
}
