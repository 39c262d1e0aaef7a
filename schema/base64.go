package schema

import (
	"bytes"
	"encoding/base64"
)

// appendBase64 appends the length and the bytes that a text in base64 holds.
func appendBase64(dst, text []byte) ([]byte, bool) {
	enc := base64Encoding(text)
	if enc == nil {
		return dst, false
	}
	size := base64.RawStdEncoding.DecodedLen(len(bytes.TrimRight(text, "=")))
	dst = appendLong(dst, int64(size))
	start := len(dst)
	dst, err := enc.AppendDecode(dst, text)
	return dst, err == nil && len(dst)-start == size
}

var (
	stdPadded = base64.StdEncoding.Strict()
	stdRaw    = base64.RawStdEncoding.Strict()
	urlPadded = base64.URLEncoding.Strict()
	urlRaw    = base64.RawURLEncoding.Strict()
)

// base64Encoding finds the encoding of a text by its alphabet and padding. The
// standard library would skip line breaks; here they are no base64.
func base64Encoding(text []byte) *base64.Encoding {
	std, url := true, true
	for _, c := range text {
		switch c {
		case '+', '/':
			url = false
		case '-', '_':
			std = false
		case '\n', '\r':
			return nil
		}
	}
	padded := len(text)%4 == 0
	switch {
	case std && padded:
		return stdPadded
	case std:
		return stdRaw
	case url && padded:
		return urlPadded
	case url:
		return urlRaw
	}
	return nil
}
