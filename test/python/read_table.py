"""Reads a table of Thermocline with PyIceberg and with DuckDB, and compares every row and type.

What the server says of its rows is the measure: its schema, and its NDJSON with system columns and
`numbers=string`. The exit code is 0 when both engines agree with it, on all rows and behind predicates on the
least and the greatest value of each column.

With --published, the rows as they were sent, the server's own are compared with them first, by the value of the
first field.

PyIceberg reads the table twice: by the file of its metadata, and as the Iceberg REST catalog gives it. DuckDB reads the
files that the catalog's plan names.

    read_table.py --schema schema.json --rows rows.ndjson --published sent.ndjson --metadata 00007-….metadata.json
        --catalog http://localhost:8080/iceberg --table default.quakes
"""

import argparse
import json
import os
import sys
import time

import duckdb
import pyarrow as pa
import pyarrow.fs
import pyiceberg.types as ice
from expected import SYSTEM, at, place, scalars, value
from fsspec.implementations.arrow import ArrowFSWrapper
from pyiceberg.catalog import load_catalog
from pyiceberg.expressions import (
    EqualTo,
    GreaterThan,
    GreaterThanOrEqual,
    IsNull,
    LessThan,
    LessThanOrEqual,
)
from pyiceberg.table import StaticTable


def from_arrow(field, v):
    """Arrow's Python values, with maps as dicts."""
    if v is None:
        return None
    match field["type"]:
        case "ARRAY":
            return [from_arrow(field["element"], e) for e in v]
        case "MAP":
            pairs = v.items() if isinstance(v, dict) else v
            return {k: from_arrow(field["value"], e) for k, e in pairs}
        case "STRUCT":
            return {f["name"]: from_arrow(f, v[f["name"]]) for f in field["fields"]}
        case _:
            return v


PLAIN = {
    "BOOLEAN": (pa.bool_(), ice.BooleanType()),
    "BYTE": (pa.int32(), ice.IntegerType()),
    "SHORT": (pa.int32(), ice.IntegerType()),
    "INTEGER": (pa.int32(), ice.IntegerType()),
    "LONG": (pa.int64(), ice.LongType()),
    "FLOAT": (pa.float32(), ice.FloatType()),
    "DOUBLE": (pa.float64(), ice.DoubleType()),
    "STRING": (pa.string(), ice.StringType()),
    "BINARY": (pa.binary(), ice.BinaryType()),
    "DATE": (pa.date32(), ice.DateType()),
    "TIMESTAMP": (pa.timestamp("us", "UTC"), ice.TimestamptzType()),
}


def arrow_type(field):
    match field["type"]:
        case "DECIMAL":
            return pa.decimal128(field["precision"], field["scale"])
        case "ARRAY":
            return pa.list_(arrow_type(field["element"]))
        case "MAP":
            return pa.map_(pa.string(), arrow_type(field["value"]))
        case "STRUCT":
            return pa.struct([(f["name"], arrow_type(f)) for f in field["fields"]])
        case plain:
            return PLAIN[plain][0]


def bare(t):
    """An Arrow type without what engines choose freely: 32 or 64 bit lengths, inner names, nullability."""
    if pa.types.is_large_string(t) or pa.types.is_string_view(t):
        return pa.string()
    if pa.types.is_large_binary(t) or pa.types.is_binary_view(t):
        return pa.binary()
    if pa.types.is_list(t) or pa.types.is_large_list(t) or pa.types.is_list_view(t):
        return pa.list_(bare(t.value_type))
    if pa.types.is_map(t):
        return pa.map_(bare(t.key_type), bare(t.item_type))
    if pa.types.is_struct(t):
        return pa.struct([(t.field(i).name, bare(t.field(i).type)) for i in range(t.num_fields)])
    return t


def check_iceberg_type(path, field, found, required, problems):
    if required == field["nullable"]:
        problems.append(f"Iceberg: {path} is {'required' if required else 'optional'}")
    match field["type"]:
        case "DECIMAL":
            same = found == ice.DecimalType(field["precision"], field["scale"])
        case "ARRAY":
            same = isinstance(found, ice.ListType)
            if same:
                check_iceberg_type(path + ".element", field["element"], found.element_type, found.element_required, problems)
        case "MAP":
            same = isinstance(found, ice.MapType) and found.key_type == ice.StringType()
            if same:
                check_iceberg_type(path + ".value", field["value"], found.value_type, found.value_required, problems)
        case "STRUCT":
            same = isinstance(found, ice.StructType)
            if same:
                check_iceberg_fields(path + ".", field["fields"], found.fields, problems)
        case plain:
            same = found == PLAIN[plain][1]
    if not same:
        problems.append(f"Iceberg: {path} is {found}, want {field['type']}")


def check_iceberg_fields(prefix, fields, found, problems):
    if [(f["id"], f["name"]) for f in fields] != [(f.field_id, f.name) for f in found]:
        problems.append(f"Iceberg: fields {prefix} are {[str(f) for f in found]}")
        return
    for field, f in zip(fields, found):
        check_iceberg_type(prefix + f.name, field, f.field_type, f.required, problems)


# --- comparing ------------------------------------------------------------------------------------------


def check_rows(engine, fields, want, table, problems):
    """table is an Arrow table of all columns; its rows come in any order."""
    for field in fields:
        found = bare(table.schema.field(field["name"]).type)
        if found != bare(arrow_type(field)):
            problems.append(f"{engine}: {field['name']} is {found}, want {arrow_type(field)}")
    names = [f["name"] for f in fields]
    if table.schema.names != names:
        problems.append(f"{engine}: columns {table.schema.names}, want {names}")
        return
    got = sorted(table.to_pylist(), key=place)
    if len(got) != len(want):
        problems.append(f"{engine}: {len(got)} rows, want {len(want)}")
    for w, g in zip(want, got):
        for field in fields:
            name = field["name"]
            if (v := from_arrow(field, g[name])) != w[name]:
                problems.append(f"{engine}: row {place(w)}, {name}: {v!r}, want {w[name]!r}")
                if len(problems) > 20:
                    return


def check_published(fields, want, file, problems):
    with open(file, encoding="utf-8") as f:
        sent = [json.loads(line) for line in f]
    key = fields[0]["name"]
    stored = {row[key]: row for row in want}
    if len(stored) != len(want) or len(sent) != len(want):
        problems.append(f"published: {len(sent)} rows, the server has {len(want)}, {len(stored)} of them different")
    for row in sent:
        found = stored.get(row[key])
        for field in fields:
            name = field["name"]
            v = value(field, row.get(name))
            if found is None or v != found[name]:
                problems.append(f"published: row {row[key]}, {name}: {v!r}, the server has {found and found[name]!r}")
                break
        if len(problems) > 20:
            return


COMPARISONS = [
    ("=", EqualTo, lambda a, b: a == b),
    ("<", LessThan, lambda a, b: a < b),
    ("<=", LessThanOrEqual, lambda a, b: a <= b),
    (">", GreaterThan, lambda a, b: a > b),
    (">=", GreaterThanOrEqual, lambda a, b: a >= b),
]


def literal(field, v):
    """v as PyIceberg takes it in a predicate."""
    return v.isoformat() if field["type"] in ("DATE", "TIMESTAMP") else v


def duck_cast(field):
    match field["type"]:
        case "BYTE" | "SHORT" | "INTEGER":
            return "INTEGER"
        case "LONG":
            return "BIGINT"
        case "DECIMAL":
            return f"DECIMAL({field['precision']},{field['scale']})"
        case "STRING":
            return "VARCHAR"
        case "TIMESTAMP":
            return "TIMESTAMPTZ"
        case plain:
            return plain


def duck_param(field, v):
    if field["type"] in ("BOOLEAN", "BINARY", "STRING", "BYTE", "SHORT", "INTEGER", "LONG"):
        return v
    return literal(field, v) if field["type"] in ("DATE", "TIMESTAMP") else str(v)


def check_predicates(fields, want, table, db, files, problems):
    """Bounds that were cut too short lose rows here and nowhere else."""
    asked = 0
    for path, field in scalars(fields):
        present = [v for row in want if (v := at(row, path)) is not None]
        name = ".".join(path)
        quoted = ".".join(f'"{p}"' for p in path)
        nulls = len(want) - len(present)
        if len(path) == 1:
            found = table.scan(row_filter=IsNull(name), selected_fields=("_offset",)).to_arrow().num_rows
            if found != nulls:
                problems.append(f"PyIceberg: {found} rows where {name} is null, want {nulls}")
        if not present:
            continue
        for v in {min(present), max(present)}:
            for sign, predicate, holds in COMPARISONS:
                if field["type"] == "BOOLEAN" and sign != "=":
                    continue
                expected = sum(holds(p, v) for p in present)
                found = table.scan(row_filter=predicate(name, literal(field, v)), selected_fields=("_offset",)).to_arrow().num_rows
                if found != expected:
                    problems.append(f"PyIceberg: {found} rows where {name} {sign} {v!r}, want {expected}")
                query = f"select count(*) from read_parquet(?) where {quoted} {sign} cast(? as {duck_cast(field)})"
                found = db.execute(query, [files, duck_param(field, v)]).fetchone()[0]
                if found != expected:
                    problems.append(f"DuckDB: {found} rows where {name} {sign} {v!r}, want {expected}")
                asked += 2
    return asked


class Bucket(ArrowFSWrapper):
    """A bucket for DuckDB, whose own way to one is an extension that would have to be downloaded."""

    protocol = "bucket"

    @classmethod
    def _strip_protocol(cls, path):
        return path.removeprefix("bucket://")


def s3_options():
    """The server and its keys, as the environment names them to every client of S3."""
    return os.environ["AWS_ENDPOINT_URL"], os.environ["AWS_ACCESS_KEY_ID"], os.environ["AWS_SECRET_ACCESS_KEY"], os.environ["AWS_REGION"]


def iceberg_properties(metadata):
    if not metadata.startswith("s3://"):
        return {}
    endpoint, key, secret, region = s3_options()
    return {"s3.endpoint": endpoint, "s3.access-key-id": key, "s3.secret-access-key": secret, "s3.region": region}


def duckdb_files(db, files):
    """Has db read files, and returns how it names them."""
    if not files[0].startswith("s3://"):
        return files
    endpoint, key, secret, region = s3_options()
    scheme, host = endpoint.split("://")
    s3 = pyarrow.fs.S3FileSystem(access_key=key, secret_key=secret, region=region, endpoint_override=host, scheme=scheme)
    db.register_filesystem(Bucket(s3))
    return ["bucket://" + f.removeprefix("s3://") for f in files]


def main():
    # DuckDB shows and compares instants in the local time zone, and a wheel without ICU takes it from here only.
    os.environ["TZ"] = "UTC"
    time.tzset()
    args = argparse.ArgumentParser()
    args.add_argument("--schema", required=True)
    args.add_argument("--rows", required=True)
    args.add_argument("--published")
    args.add_argument("--metadata", required=True)
    args.add_argument("--catalog", required=True)
    args.add_argument("--table", required=True)
    args = args.parse_args()

    with open(args.schema, encoding="utf-8") as f:
        fields = json.load(f)["fields"] + SYSTEM
    with open(args.rows, encoding="utf-8") as f:
        want = [json.loads(line) for line in f]
    want = sorted(({f["name"]: value(f, row[f["name"]]) for f in fields} for row in want), key=place)

    problems = []
    if args.published:
        check_published(fields[: -len(SYSTEM)], want, args.published, problems)
    names = [f["name"] for f in fields]
    static = StaticTable.from_metadata(args.metadata, iceberg_properties(args.metadata))
    check_rows("PyIceberg, by the metadata", fields, want, static.scan().to_arrow().select(names), problems)
    # The keys of a bucket come with the table.
    table = load_catalog("thermocline", type="rest", uri=args.catalog).load_table(args.table)
    # The table knows the system columns by id; where they stand is its own affair.
    found = sorted(table.schema().fields, key=lambda f: (f.field_id <= 4, f.field_id))
    check_iceberg_fields("", sorted(fields, key=lambda f: (f["id"] <= 4, f["id"])), found, problems)
    check_rows("PyIceberg", fields, want, table.scan().to_arrow().select(names), problems)

    db = duckdb.connect()
    files = duckdb_files(db, [t.file.file_path.removeprefix("file://") for t in table.scan().plan_files()])
    rows = db.sql("select * from read_parquet(?)", params=[files]).to_arrow_table()
    check_rows("DuckDB", fields, want, rows.select(names), problems)
    asked = check_predicates(fields, want, table, db, files, problems)

    for p in problems[:50]:
        print(p, file=sys.stderr)
    if problems:
        sys.exit(f"{len(problems)} problems")
    print(f"{len(want)} rows of {len(fields)} columns in {len(files)} files, {asked} predicates: PyIceberg and DuckDB agree")


if __name__ == "__main__":
    main()
