"""
Compare a table of two databases with data-diff or reladiff, which have one interface, and print the
seconds and the number of differences.

Arguments: the package, the URL of either database, the name of the table, its key, and its other
columns.
"""

import importlib
import json
import sys
import time
from urllib.parse import urlsplit

package, source, target, table, key, *columns = sys.argv[1:]
tool = importlib.import_module(package)
name = tuple(table.split("."))


def connect(url: str, path: tuple[str, ...]) -> object:
    """A side. data-diff wants a password also where there is none, so it gets no URL."""
    parts = urlsplit(url)
    address = {
        "driver": parts.scheme,
        "host": parts.hostname,
        "port": parts.port,
        "user": parts.username,
        "password": parts.password or "",
        "database" if parts.scheme == "mysql" else "dbname": parts.path.strip("/"),
    }
    return tool.connect_to_table(address, path, key, extra_columns=tuple(columns), thread_count=1)


started = time.perf_counter()
sides = connect(source, name[-1:]), connect(target, name)
differences = sum(1 for _ in tool.diff_tables(*sides))
print(json.dumps({"seconds": time.perf_counter() - started, "differences": differences}))
