package api

import (
	"fmt"
	"mime"
	"net/http"
	"slices"
	"strconv"
	"strings"

	"github.com/gin-gonic/gin"
)

// negotiate picks one of the served formats, the first being the default: the
// one that the query asks for, or the one that Accept likes best.
func negotiate(c *gin.Context, asked string, served ...string) (string, error) {
	if asked != "" {
		if slices.Contains(served, asked) {
			return asked, nil
		}
		return "", invalid("format %.40q: want one of %s", asked, strings.Join(served, ", "))
	}
	accept := strings.Join(c.Request.Header.Values("Accept"), ",")
	if strings.TrimSpace(accept) == "" {
		return served[0], nil
	}
	best, bestQ := "", 0.0
	for _, format := range served {
		if q := quality(accept, outputTypes[format]); q > bestQ {
			best, bestQ = format, q
		}
	}
	if best != "" {
		return best, nil
	}
	types := make([]string, len(served))
	for i, f := range served {
		types[i] = outputTypes[f]
	}
	return "", &problemError{http.StatusNotAcceptable, "NOT_ACCEPTABLE", fmt.Sprintf("Accept %.80q allows none of %s; ask with the query parameter format", accept, strings.Join(types, ", "))}
}

// quality is how much an Accept header likes a media type, from 0 to 1: the q of
// its most specific range that matches.
func quality(accept, want string) float64 {
	q, specific := 0.0, 0
	major, _, _ := strings.Cut(want, "/")
	for part := range strings.SplitSeq(accept, ",") {
		t, params, err := mime.ParseMediaType(part)
		if err != nil {
			continue
		}
		level := 0
		switch t {
		case want:
			level = 3
		case major + "/*":
			level = 2
		case "*/*":
			level = 1
		}
		if level <= specific {
			continue
		}
		specific, q = level, 1
		if text, ok := params["q"]; ok {
			if q, err = strconv.ParseFloat(text, 64); err != nil || q < 0 || q > 1 {
				q = 0
			}
		}
	}
	return q
}
