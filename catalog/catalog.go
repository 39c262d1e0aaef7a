// Package catalog is the SQL metadata of Thermocline: streams, branches, views,
// schemas, settings, checkpoints, archive leases and table pointers. Rows of
// streams never pass through it.
package catalog
