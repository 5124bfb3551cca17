"""Another program that writes into a kryoptic token's database.

    writer.py DATABASE slow     holds SQLite's two locks for a moment, one after the other
    writer.py DATABASE crash    dies in the middle of it and leaves its journal
"""

import os
import signal
import sqlite3
import sys
import time


def slow(database):
    # Others read meanwhile, and see its journal; then they have to wait.
    for begin, change in (("IMMEDIATE", "CREATE TABLE another (x)"), ("EXCLUSIVE", "SELECT 1")):
        database.execute(f"BEGIN {begin}")
        database.execute(change)
        time.sleep(1)
        database.execute("ROLLBACK")


def crash(database):
    # More than is kept in memory goes to the database before its time.
    database.execute("PRAGMA cache_size = 1")
    database.execute("BEGIN")
    database.execute("CREATE TABLE another (x)")
    for _ in range(2000):
        database.execute("INSERT INTO another VALUES (randomblob(400))")
    os.kill(os.getpid(), signal.SIGKILL)


if __name__ == "__main__":
    {"slow": slow, "crash": crash}[sys.argv[2]](sqlite3.connect(sys.argv[1], isolation_level=None))
