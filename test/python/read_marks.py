"""Reads a subscriber's push read as Arrow IPC with PyArrow, the way a client of ours would.

Prints one JSON line for each record batch that is no heartbeat, {"rows": […], "mark": {…}}, until it has seen as many
rows as asked for and a mark behind them.

    read_marks.py URL ROWS
"""

import json
import sys
import urllib.request

import pyarrow as pa

MARK = b"thermocline.mark"


def main():
    address, want = sys.argv[1], int(sys.argv[2])
    with urllib.request.urlopen(urllib.request.Request(address, headers={"Accept": "application/vnd.apache.arrow.stream"}), timeout=30) as answer:
        seen = 0
        reader = pa.ipc.open_stream(answer)
        while True:
            batch, metadata = reader.read_next_batch_with_custom_metadata()
            mark = None
            if metadata is not None and MARK in metadata:
                mark = json.loads(metadata[MARK])
            if mark is None and batch.num_rows == 0:
                continue
            seen += batch.num_rows
            print(json.dumps({"rows": batch.to_pylist(), "mark": mark}, default=str), flush=True)
            if seen >= want and mark is not None:
                return


if __name__ == "__main__":
    main()
