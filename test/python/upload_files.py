"""Makes a dataset with PyIceberg, and uploads to it Parquet files that PyArrow, DuckDB and PyIceberg wrote.

Each file is uploaded as it is. All three engines then read the table, whose files have our checksums in them, and find
every row. The last rows are PyIceberg's own commit on top of the uploads.

    upload_files.py http://localhost:8080 lake.engines DIRECTORY
"""

import datetime
import decimal
import json
import sys
import urllib.request

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pyiceberg.types as ice
from pyiceberg.catalog import load_catalog
from pyiceberg.expressions import EqualTo, GreaterThanOrEqual
from pyiceberg.schema import Schema

UTC = datetime.timezone.utc

SCHEMA = Schema(
    ice.NestedField(1, "n", ice.LongType(), required=False),
    ice.NestedField(2, "text", ice.StringType(), required=False),
    ice.NestedField(3, "at", ice.TimestamptzType(), required=False),
    ice.NestedField(4, "price", ice.DecimalType(9, 2), required=False),
    ice.NestedField(5, "parts", ice.ListType(6, ice.IntegerType(), element_required=False), required=False),
    ice.NestedField(7, "place", ice.StructType(ice.NestedField(8, "lat", ice.DoubleType(), required=False)), required=False),
)

ARROW = pa.schema([
    ("n", pa.int64()), ("text", pa.string()), ("at", pa.timestamp("us", tz="UTC")), ("price", pa.decimal128(9, 2)),
    ("parts", pa.list_(pa.int32())), ("place", pa.struct([("lat", pa.float64())])),
])


def rows(first, count):
    return [{
        "n": n, "text": None if n % 5 == 0 else f"row {n}", "at": datetime.datetime(2024, 1, 1, tzinfo=UTC) + datetime.timedelta(seconds=n),
        "price": decimal.Decimal(n) / 100, "parts": [n, None] if n % 2 else [], "place": {"lat": n / 4},
    } for n in range(first, first + count)]


def call(url, body, content_type):
    request = urllib.request.Request(url, data=body, method="POST", headers={"Content-Type": content_type})
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            return json.load(answer)
    except urllib.error.HTTPError as e:
        raise SystemExit(f"{url}: {e.code} {e.read().decode()}")


def main(server, name, directory):
    catalog = load_catalog("t", type="rest", uri=server + "/iceberg")
    namespace = name.split(".")[0]
    catalog.create_namespace(namespace)
    table = catalog.create_table(name, SCHEMA)
    other = catalog.create_table(name + "_other", SCHEMA)

    files = []
    written = pa.Table.from_pylist(rows(0, 100), ARROW)
    pq.write_table(written, f"{directory}/arrow.parquet", row_group_size=30)
    files.append(f"{directory}/arrow.parquet")
    pq.write_table(pa.Table.from_pylist(rows(100, 100), ARROW), f"{directory}/plain.parquet", compression="NONE", use_dictionary=False,
                   write_page_index=True, data_page_version="2.0")
    files.append(f"{directory}/plain.parquet")
    duck = duckdb.connect()
    duck.execute("SET TimeZone = 'UTC'")
    source = pa.Table.from_pylist(rows(200, 100), ARROW)
    duck.register("source", source)
    duck.execute(f"COPY (SELECT * FROM source) TO '{directory}/duck.parquet' (FORMAT parquet, COMPRESSION zstd)")
    files.append(f"{directory}/duck.parquet")
    other.append(pa.Table.from_pylist(rows(300, 100), ARROW))
    files += [task.file.file_path.removeprefix("file://") for task in other.scan().plan_files()]
    assert len(files) == 4, files

    base = f"{server}/v1/datasets/{name}/branches/main"
    transaction = call(base + "/transactions", b'{"type":"APPEND"}', "application/json")
    at = f"{base}/transactions/{transaction['id']}"
    for i, path in enumerate(files):
        with open(path, "rb") as f:
            taken = call(f"{at}/files?name=f{i}", f.read(), "application/vnd.apache.parquet")
        assert taken["rows"] == 100, taken
    table.refresh()
    assert table.current_snapshot() is None, "rows before the commit"
    done = call(at + "/commit", b"", "application/json")
    assert done["rows"] == 400, done
    table.refresh()
    table.append(pa.Table.from_pylist(rows(400, 10), ARROW))

    want = rows(0, 410)
    table = catalog.load_table(name)
    got = sorted(table.scan().to_arrow().to_pylist(), key=lambda r: r["n"])
    assert got == want, f"PyIceberg reads {len(got)} rows, or others"
    # Statistics of the footers prune, and lose nothing at their ends.
    for n in (0, 29, 30, 99, 100, 199, 200, 299, 300, 399, 409):
        hit = table.scan(row_filter=EqualTo("n", n)).to_arrow()
        assert hit.num_rows == 1, f"n = {n}: {hit.num_rows} rows"
        assert len(list(table.scan(row_filter=EqualTo("n", n)).plan_files())) == 1, f"n = {n} is not pruned"
    assert table.scan(row_filter=GreaterThanOrEqual("text", "row 98")).to_arrow().num_rows == 2  # row 98, row 99
    paths = [task.file.file_path.removeprefix("file://") for task in table.scan().plan_files()]
    count, total = duck.execute(f"SELECT count(*), sum(n) FROM read_parquet({paths!r})").fetchone()
    assert (count, total) == (410, sum(range(410))), (count, total)
    arrow = pa.concat_tables([pq.read_table(p).select(["n"]) for p in paths])
    assert sorted(arrow["n"].to_pylist()) == list(range(410))
    print(f"{len(paths)} files, {count} rows: PyIceberg, DuckDB and PyArrow agree")


main(*sys.argv[1:])
