"""The outside engine of the experiment in docs/BRANCHING.md: PyIceberg and DuckDB on a branch, through the REST catalog.

    experiment.py --uri http://127.0.0.1:8080/iceberg --branch exp --table default.quakes add-column
    experiment.py … correct     magnitudes of kind ml become moment magnitudes, old ones are kept in the new column
    experiment.py … read        the table as NDJSON: id, magnitude, original, in no order
"""

import argparse
import json
import sys

import duckdb
from pyiceberg.catalog.rest import RestCatalog
from pyiceberg.types import DoubleType

# A linear relation between local and moment magnitude, as regional networks publish them.
CORRECTION = """
    SELECT * REPLACE (round(0.85 * magnitude + 0.6, 2) AS magnitude, magnitude AS original)
    FROM rows WHERE magnitude_type = 'ml'
"""


def main():
    arguments = argparse.ArgumentParser()
    arguments.add_argument("--uri", required=True)
    arguments.add_argument("--branch", required=True)
    arguments.add_argument("--table", required=True)
    arguments.add_argument("what", choices=["add-column", "correct", "read"])
    a = arguments.parse_args()

    # The warehouse names the branch; nothing else differs from any other Iceberg catalog.
    catalog = RestCatalog("thermocline", uri=a.uri, warehouse=a.branch)
    table = catalog.load_table(a.table)
    match a.what:
        case "add-column":
            with table.update_schema() as change:
                change.add_column("original", DoubleType(), "magnitude before its correction")
        case "correct":
            rows = table.scan(row_filter="magnitude_type == 'ml'").to_arrow()
            corrected = duckdb.sql(CORRECTION).to_arrow_table().cast(rows.schema)
            # One snapshot: the rows of this kind go, the corrected ones come, with the same identities.
            table.overwrite(corrected, overwrite_filter="magnitude_type == 'ml'")
            print(len(corrected))
        case "read":
            columns = [f.name for f in table.schema().fields if f.name in ("id", "magnitude", "original")]
            for row in table.scan(selected_fields=tuple(columns)).to_arrow().to_pylist():
                json.dump({"original": None} | row, sys.stdout)
                print()


if __name__ == "__main__":
    main()
