// Package interop checks Thermocline from outside, with clients that many
// programs still use: the archived github.com/hamba/avro/v2 and the last
// release of github.com/apache/arrow/go. They read what the server wrote, and
// what they wrote is published to it.
//
// It is a module of its own, so that the product does not carry these
// libraries, and it knows of the server only the command line, HTTP and files.
package interop
