"""Changes a table of events through the Iceberg REST catalog, as somebody with PyIceberg would, while others commit
to it: appends, deletes, overwrites, adds a column, tags, travels in time, expires snapshots.

The test that calls it makes the same changes to its model. Each step is one commit; the server makes those that
were based on an older head anew, and a step that conflicts all the same is taken again on the table as it is.

    change_table.py http://localhost:8080/iceberg default.events --warehouse exp
"""

import argparse
import datetime
import sys

import pyarrow as pa
from pyiceberg.catalog import load_catalog
from pyiceberg.exceptions import CommitFailedException
from pyiceberg.expressions import And, EqualTo, GreaterThanOrEqual, LessThan
from pyiceberg.types import StringType

ROWS = pa.schema([pa.field("id", pa.int64(), nullable=False), ("region", pa.string()), ("magnitude", pa.float64())])


def rows(ids, region, magnitude):
    return pa.table([list(ids), [region] * len(ids), [magnitude] * len(ids)], schema=ROWS)


def between(low, high):
    return And(GreaterThanOrEqual("id", low), LessThan("id", high))


class Changes:
    def __init__(self, catalog, name):
        self.catalog, self.name, self.again = catalog, name, 0

    def table(self):
        return self.catalog.load_table(self.name)

    def step(self, change):
        for _ in range(50):
            table = self.table()
            try:
                change(table)
                return table
            except CommitFailedException:
                self.again += 1
        sys.exit(f"{self.name}: a step conflicted 50 times")


def main():
    args = argparse.ArgumentParser()
    args.add_argument("uri")
    args.add_argument("table")
    args.add_argument("--warehouse", default="main")
    args = args.parse_args()
    catalog = load_catalog(args.warehouse, type="rest", uri=args.uri, warehouse=args.warehouse)
    changes = Changes(catalog, args.table)

    begun = changes.table()
    first = begun.current_snapshot().snapshot_id
    was = begun.scan(between(0, 1000)).to_arrow().num_rows

    changes.step(lambda t: t.append(rows(range(2000, 2100), "west", 1.5)))
    changes.step(lambda t: t.delete(between(100, 200)))
    # A whole range by other rows, in one transaction of two snapshots.
    changes.step(lambda t: t.overwrite(rows(range(200, 300), "over", 2.5), between(200, 300)))

    def add_column(t):
        with t.update_schema() as u:
            u.add_column("note", StringType())

    changes.step(add_column)
    noted = rows(range(2100, 2110), "west", 3.5).append_column("note", pa.array(["hello"] * 10))
    changes.step(lambda t: t.append(noted))

    # An append and a delete from a table that was loaded before others committed.
    stale = changes.table()
    changes.step(lambda t: t.append(rows(range(2110, 2120), "west", 4.5)))
    stale.append(rows(range(2120, 2130), "west", 4.5))
    stale = changes.table()
    changes.step(lambda t: t.append(rows(range(2130, 2140), "west", 4.5)))
    try:
        stale.delete(EqualTo("id", 50))
    except CommitFailedException:
        changes.again += 1
        changes.step(lambda t: t.delete(EqualTo("id", 50)))

    changes.step(lambda t: t.manage_snapshots().create_tag(first, "before").commit())

    now = changes.table()
    found = now.scan(between(2000, 2140)).to_arrow().num_rows
    if found != 140:
        sys.exit(f"{found} of the 140 rows that were added")
    if gone := now.scan(between(100, 200)).to_arrow().num_rows:
        sys.exit(f"{gone} rows that were deleted are there")
    if (n := now.scan(between(0, 1000), snapshot_id=first).to_arrow().num_rows) != was:
        sys.exit(f"at the first snapshot there are {n} rows, there were {was}")
    if (n := now.scan(between(0, 1000)).use_ref("before").to_arrow().num_rows) != was:
        sys.exit(f"at the tag there are {n} rows, there were {was}")

    # All that is older than now, but for what refs name: the server's marker is one of them.
    before = len(now.metadata.snapshots)
    changes.step(lambda t: t.maintenance.expire_snapshots().older_than(datetime.datetime.now()).commit())
    after = len(changes.table().metadata.snapshots)
    if after >= before:
        sys.exit(f"{before} snapshots before they were expired, {after} after")
    print(f"{args.warehouse}: {changes.again} steps were taken again, {before - after} snapshots expired")


if __name__ == "__main__":
    main()
