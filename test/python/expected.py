"""What the server says of its rows, as the Python values that engines ought to give: its schema, and its NDJSON with
system columns and `numbers=string`."""

import base64
import ctypes
import datetime
from decimal import Decimal

# Nullable, so that rows which other engines append need not have them.
SYSTEM = [
    {"id": (1 << 30) + 1, "name": "_view", "type": "INTEGER", "nullable": True},
    {"id": (1 << 30) + 2, "name": "_partition_id", "type": "INTEGER", "nullable": True},
    {"id": (1 << 30) + 3, "name": "_offset", "type": "LONG", "nullable": True},
    {"id": (1 << 30) + 4, "name": "_timestamp", "type": "TIMESTAMP", "nullable": True},
]
NESTED = ("ARRAY", "MAP", "STRUCT")


def value(field, v):
    """The JSON value v of a field, as the Python value that Arrow would give."""
    if v is None:
        return None
    match field["type"]:
        case "LONG":
            return int(v)
        case "FLOAT":
            return ctypes.c_float(v).value
        case "DOUBLE":
            return float(v)
        case "DECIMAL":
            return Decimal(v)
        case "BINARY":
            return base64.b64decode(v, validate=True)
        case "DATE":
            return datetime.date.fromisoformat(v)
        case "TIMESTAMP":
            return datetime.datetime.fromisoformat(v)
        case "ARRAY":
            return [value(field["element"], e) for e in v]
        case "MAP":
            return {k: value(field["value"], e) for k, e in v.items()}
        case "STRUCT":
            return {f["name"]: value(f, v[f["name"]]) for f in field["fields"]}
        case _:
            return v


def place(row):
    return row["_view"], row["_partition_id"], row["_offset"]


def scalars(fields, prefix=()):
    """The paths of all columns that a predicate can name."""
    for field in fields:
        path = (*prefix, field["name"])
        if field["type"] == "STRUCT":
            yield from scalars(field["fields"], path)
        elif field["type"] not in NESTED:
            yield path, field


def at(row, path):
    for name in path:
        row = None if row is None else row[name]
    return row
