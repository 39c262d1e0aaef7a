package schema

import (
	"unicode/utf8"

	"github.com/go-json-experiment/json/jsontext"
)

// appendJSONString appends s, which is valid UTF-8, in quotes.
func appendJSONString[T ~string | ~[]byte](dst []byte, s T) []byte {
	if plainText(s) {
		return append(append(append(dst, '"'), s...), '"')
	}
	dst, err := jsontext.AppendQuote(dst, s)
	if err != nil {
		panic(err) // invalid UTF-8: decoders have checked it
	}
	return dst
}

// plainText tells whether s needs no escape.
func plainText[T ~string | ~[]byte](s T) bool {
	for i := range len(s) {
		if c := s[i]; c < ' ' || c == '"' || c == '\\' || c >= utf8.RuneSelf {
			return false
		}
	}
	return true
}
