"""A Spark session that a test drives: one command in JSON on each line of stdin, one answer in JSON on each line of stdout.

    {"sql": "select …"}                         → {"rows": [[…], …]}
    {"compare": "exp.default.t", "schema": "schema.json", "rows": "rows.ndjson"}
                                                → {"rows": [[number of rows, number of predicates]]}, or {"error": what differs}
    anything that fails                         → {"error": "…"}

`compare` holds each row and value, and predicates on the least and the greatest value of each column, against what the
server says of its rows (its schema, and its NDJSON with system column and `numbers=string`).

    bridge.py http://127.0.0.1:8080 "jars/*" scratch-directory
"""

import base64
import datetime
import functools
import json
import os
import sys
import time
from decimal import Decimal

from expected import SYSTEM, at, place, scalars, value
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F
from pyspark.sql import types as T

EPOCH = datetime.datetime(1970, 1, 1, tzinfo=datetime.timezone.utc)

PLAIN = {
    "BOOLEAN": T.BooleanType(),
    "BYTE": T.IntegerType(),
    "SHORT": T.IntegerType(),
    "INTEGER": T.IntegerType(),
    "LONG": T.LongType(),
    "FLOAT": T.FloatType(),
    "DOUBLE": T.DoubleType(),
    "STRING": T.StringType(),
    "BINARY": T.BinaryType(),
    "DATE": T.DateType(),
    "TIMESTAMP": T.TimestampType(),
}


def session(server, jars, scratch):
    """A catalog for each branch that tests use, and `c`, where a table's name says the branch: c.default.`t@exp`."""
    build = (
        SparkSession.builder.master("local[2]")
        .config("spark.driver.extraClassPath", jars)
        .config("spark.ui.enabled", "false")
        .config("spark.driver.bindAddress", "127.0.0.1")
        .config("spark.driver.host", "127.0.0.1")
        .config("spark.local.dir", scratch)
        .config("spark.sql.warehouse.dir", scratch)
        .config("spark.sql.shuffle.partitions", "2")
        .config("spark.sql.session.timeZone", "UTC")
        .config("spark.sql.extensions", "org.apache.iceberg.spark.extensions.IcebergSparkSessionExtensions")
    )
    catalogs = {
        "c": {},
        "exp": {"warehouse": "exp"},
        "mor": {"header.X-Thermocline-Branch": "mor"},
        "fresh": {"header.X-Thermocline-Fresh": "1"},
    }
    for name, properties in catalogs.items():
        catalog = "spark.sql.catalog." + name
        build = build.config(catalog, "org.apache.iceberg.spark.SparkCatalog")
        for key, v in {"type": "rest", "uri": server + "/iceberg", **properties}.items():
            build = build.config(f"{catalog}.{key}", v)
    spark = build.getOrCreate()
    spark.sparkContext.setLogLevel("ERROR")
    return spark


def plain(v):
    """v in JSON."""
    match v:
        case Decimal():
            return str(v)
        case datetime.datetime():
            return v.isoformat(timespec="microseconds") + "Z"
        case datetime.date():
            return v.isoformat()
        case bytes() | bytearray():
            return base64.b64encode(v).decode()
        case dict():
            return {str(k): plain(e) for k, e in v.items()}
        case list() | tuple():
            return [plain(e) for e in v]
        case _:
            return v


def literal(field, v):
    """v as a column. Spark folds it into a constant, and pushes the comparison with it down to the files."""
    match field["type"]:
        case "TIMESTAMP":  # java.sql.Timestamp would count days before 1582 in another calendar
            return F.timestamp_micros(F.lit((v - EPOCH) // datetime.timedelta(microseconds=1)))
        case "DATE":
            return F.date_from_unix_date(F.lit((v - EPOCH.date()).days))
        case _:
            return F.lit(v).cast(spark_type(field))


def spark_type(field):
    match field["type"]:
        case "DECIMAL":
            return T.DecimalType(field["precision"], field["scale"])
        case "ARRAY":
            return T.ArrayType(spark_type(field["element"]), field["element"]["nullable"])
        case "MAP":
            return T.MapType(T.StringType(), spark_type(field["value"]), field["value"]["nullable"])
        case "STRUCT":
            return T.StructType([T.StructField(f["name"], spark_type(f), f["nullable"]) for f in field["fields"]])
        case name:
            return PLAIN[name]


def check_rows(fields, want, df):
    for field in fields:
        if (found := df.schema[field["name"]].dataType) != spark_type(field):
            yield f"{field['name']} is {found}, want {spark_type(field)}"
    # As JSON: PySpark's own rows know no timestamp in year 1.
    whole = F.to_json(F.struct("*"), {"ignoreNullFields": "false", "timestampFormat": "yyyy-MM-dd'T'HH:mm:ss.SSSSSSXXX"})
    found = (json.loads(text, parse_float=Decimal) for (text,) in df.select(whole).collect())
    got = sorted(({f["name"]: value(f, row[f["name"]]) for f in fields} for row in found), key=place)
    if len(got) != len(want):
        yield f"{len(got)} rows, want {len(want)}"
    for w, g in zip(want, got):
        for field in fields:
            name = field["name"]
            if g[name] != w[name]:
                yield f"row {place(w)}, {name}: {g[name]!r}, want {w[name]!r}"


COMPARISONS = [
    ("=", lambda a, b: a == b),
    ("<", lambda a, b: a < b),
    ("<=", lambda a, b: a <= b),
    (">", lambda a, b: a > b),
    (">=", lambda a, b: a >= b),
]


def compare(column, sign, v):
    match sign:
        case "=":
            return column == v
        case "<":
            return column < v
        case "<=":
            return column <= v
        case ">":
            return column > v
        case _:
            return column >= v


def check_predicates(fields, want, df, problems):
    """Bounds that were cut too short lose rows here and nowhere else."""
    asked = 0
    for path, field in scalars(fields):
        present = [v for row in want if (v := at(row, path)) is not None]
        column = F.col(".".join(f"`{p}`" for p in path))
        name = ".".join(path)
        questions = [(f"{name} is null", column.isNull(), len(want) - len(present))]
        for v in {min(present), max(present)} if present else ():
            for sign, holds in COMPARISONS:
                questions.append((f"{name} {sign} {v!r}", compare(column, sign, literal(field, v)), sum(holds(p, v) for p in present)))
        # One job for all, in which each has its own scan.
        scans = [df.where(predicate).select(F.lit(i).alias("i")) for i, (_, predicate, _) in enumerate(questions)]
        counts = dict(functools.reduce(DataFrame.union, scans).groupBy("i").agg(F.count("*")).collect())
        asked += len(questions)
        for i, (question, _, expected) in enumerate(questions):
            if counts.get(i, 0) != expected:
                problems.append(f"{counts.get(i, 0)} rows where {question}, want {expected}")
    return asked


def held_against_server(spark, command):
    with open(command["schema"], encoding="utf-8") as f:
        fields = json.load(f)["fields"] + SYSTEM
    with open(command["rows"], encoding="utf-8") as f:
        want = [json.loads(line) for line in f]
    want = sorted(({f["name"]: value(f, row[f["name"]]) for f in fields} for row in want), key=place)
    df = spark.table(command["compare"])
    problems = list(check_rows(fields, want, df))
    asked = check_predicates(fields, want, df, problems)
    if problems:
        raise ValueError(f"{len(problems)} problems:\n" + "\n".join(problems[:30]))
    return [[len(want), asked]]


def answer(spark, command):
    try:
        if "compare" in command:
            return {"rows": held_against_server(spark, command)}
        return {"rows": [[plain(v) for v in row] for row in spark.sql(command["sql"]).collect()]}
    except Exception as e:  # whatever Spark says: the test decides whether it was to be expected
        return {"error": f"{type(e).__name__}: {e}"}


def main():
    # Python's own local time is what a naive datetime stands for on its way into Spark.
    os.environ["TZ"] = "UTC"
    time.tzset()
    # What Spark and its Java print belongs to stderr.
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    spark = session(*sys.argv[1:])
    for line in sys.stdin:
        print(json.dumps(answer(spark, json.loads(line))), file=answers, flush=True)
    spark.stop()


if __name__ == "__main__":
    main()
