// Package predicate is the where language of reads: conditions on columns,
// which are parsed from text, bound to a schema, evaluated on Arrow batches,
// and held against statistics so that files and row groups that cannot match
// are never read.
//
//	expr       = and { OR and }
//	and        = not { AND not }
//	not        = NOT not | "(" expr ")" | condition
//	condition  = column ( = | == | != | <> | < | <= | > | >= ) literal
//	           | column [ NOT ] IN "(" literal { "," literal } ")"
//	           | column IS [ NOT ] NULL
//	column     = name { "." name }         a name is plain (place) or quoted ("my place")
//	literal    = 12 | -1.5e3 | 'text' | TRUE | FALSE | X'00ff'
//
// Keywords may be in any case. Dates and timestamps are texts: '2018-02-05',
// '2018-02-05T10:00:00Z'. Logic is SQL's, with three values: a comparison with
// a null is neither true nor false, and only rows for which the whole is true
// are selected. Texts and binaries compare by their bytes; a floating-point NaN
// equals nothing and is neither less nor greater than anything.
//
// The package knows columns and statistics; files and scans are dataset's.
package predicate
