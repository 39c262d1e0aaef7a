package dataset

// SetRowGroupRows makes row groups small enough for tests.
func (d *Datasets) SetRowGroupRows(n int64) { d.rowGroupRows = n }
