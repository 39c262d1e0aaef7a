// Package test tests the whole product from outside, as its users meet it: it
// starts the binary, talks to it over HTTP and the command line, kills it, and
// reads its files with other engines. It imports nothing of the product.
//
// `make test` runs it last. THERMOCLINE_BIN names the binary, otherwise it is
// built; THERMOCLINE_PYTHON names a Python that has test/python/requirements.txt,
// otherwise the one that `make test` left in .cache is taken;
// THERMOCLINE_S3_SERVER names an S3 server (versitygw).
package test
