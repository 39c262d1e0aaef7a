package catalog

func runChild(task, path string) error { return nil }

const (
	childTask    = "CATALOG_TEST_TASK"
	childCatalog = "CATALOG_TEST_FILE"
)
