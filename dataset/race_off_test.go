//go:build !race

package dataset_test

const raced = false
