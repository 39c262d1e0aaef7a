// Package dataset keeps tables: Iceberg format v2 metadata, immutable data
// files, snapshots and commits by compare-and-swap, and scans over them.
//
// It knows no hot buffer and no catalog: where a table's pointer lives is
// behind Pointers, where its files live behind objstore.Store.
package dataset
