"""
Compare a table of two databases with reladiff, and print the seconds and the number of differences.

Arguments: the URL of either database, the name of the table, its key, and its other columns.
"""

import json
import sys
import time

from reladiff import connect_to_table, diff_tables

source, target, table, key, *columns = sys.argv[1:]
started = time.perf_counter()
name = tuple(table.split("."))
sides = [
    connect_to_table(source, name[-1], key, extra_columns=tuple(columns), thread_count=1),
    connect_to_table(target, name, key, extra_columns=tuple(columns), thread_count=1),
]
differences = sum(1 for _ in diff_tables(*sides))
print(json.dumps({"seconds": time.perf_counter() - started, "differences": differences}))
