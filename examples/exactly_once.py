#!/usr/bin/env python3
"""Copies a stream into a SQLite table, each row once, whatever is killed when: this program, the server, or both.

The server sends rows in numbered epochs of fixed contents. The rows of an epoch and the position behind it go into
the database in one transaction: both are there or neither. After a crash the program passes the stored position as
`resume`, and gets what is missing, and nothing else. It needs only the standard library.

    python3 examples/exactly_once.py --stream quakes --db quakes.db
"""

import argparse
import http.client
import json
import sqlite3
import sys
import time
import urllib.error
import urllib.parse
import urllib.request


class TakenOver(Exception):
    """Another run has claimed the database."""


def post(address, body):
    request = urllib.request.Request(address, json.dumps(body).encode(), {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=10) as answer:
        answer.read()


def lines(answer):
    """The lines of a push read, until the connection ends. A line that was cut is none."""
    while (line := answer.readline()).endswith(b"\n"):
        yield line.rstrip(b"\n")


def claim(db, session, resume):
    """Makes this session the only one that may write. It fails when another run has stored rows since the position
    was read that this session began at, or has a newer session."""
    with db:
        done = db.execute("UPDATE position SET session = ? WHERE session < ? AND cursor = ?", (session, session, resume))
        if done.rowcount != 1:
            raise TakenOver(f"session {session} comes too late")


def store(db, session, rows, cursor):
    """Writes an epoch and the position behind it, both or neither, and nothing when a newer session has claimed the
    database: then this run is the past."""
    with db:
        db.executemany("INSERT INTO rows (row) VALUES (?)", [(row.decode(),) for row in rows])
        if db.execute("UPDATE position SET cursor = ? WHERE session = ?", (cursor, session)).rowcount != 1:
            raise TakenOver(f"session {session} is over")


def follow(db, base, group):
    """Joins the subscriber and copies epochs until something breaks."""
    try:
        post(base, {"id": group, "consistency": "EXACTLY_ONCE"})
    except urllib.error.HTTPError as e:
        if e.code != 409:  # 409: it is there
            raise
    (resume,) = db.execute("SELECT cursor FROM position").fetchone()
    query = {"member": "copy"}  # a name of its own takes over from its former self at once
    if resume:
        query["resume"] = resume
    # Heartbeats come every 10 s: a connection that is silent for a minute is dead.
    with urllib.request.urlopen(f"{base}/{group}/rows?{urllib.parse.urlencode(query)}", timeout=60) as answer:
        session, rows = 0, []  # rows of the epoch that is not complete yet
        for line in lines(answer):
            if not line:  # a heartbeat
                continue
            if not line.startswith(b'{"_thermocline":'):
                rows.append(line)
                continue
            mark = json.loads(line)
            if mark["_thermocline"] == "assignment":
                rows = []  # it voids what came since the last checkpoint
                if mark["session"] != session:
                    session = mark["session"]
                    claim(db, session, resume)
            elif mark["_thermocline"] == "checkpoint":
                store(db, session, rows, mark["cursor"])
                rows = []
                # The server may be told late or never: the position that counts is ours.
                post(f"{base}/{group}/commit", {"session": session, "cursor": mark["cursor"]})
            elif mark["_thermocline"] == "error":
                raise ConnectionError(f"the server ends the read: {mark['problem']}")
    raise ConnectionError("the connection ended")


def main():
    flags = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    flags.add_argument("--server", default="http://127.0.0.1:8080", help="address of the server")
    flags.add_argument("--stream", required=True, help="name of the stream")
    flags.add_argument("--group", default="exactly-once", help="name of the subscriber")
    flags.add_argument("--db", default="rows.db", help="the SQLite database")
    o = flags.parse_args()
    # IMMEDIATE: a transaction has the write lock before it looks at the position.
    db = sqlite3.connect(o.db, timeout=5, isolation_level="IMMEDIATE")
    with db:
        db.execute("CREATE TABLE IF NOT EXISTS rows (id INTEGER PRIMARY KEY, row TEXT NOT NULL)")
        db.execute("CREATE TABLE IF NOT EXISTS position (one INTEGER PRIMARY KEY CHECK (one = 1), session INTEGER NOT NULL, cursor TEXT NOT NULL)")
        db.execute("INSERT OR IGNORE INTO position VALUES (1, 0, '')")
    base = f"{o.server}/v1/streams/{urllib.parse.quote(o.stream, safe='')}/branches/main/subscribers"
    while True:
        try:
            follow(db, base, o.group)
        except (OSError, http.client.HTTPException, TakenOver, sqlite3.OperationalError) as e:
            print("joining again:", e, file=sys.stderr)
            time.sleep(0.2)


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        pass
