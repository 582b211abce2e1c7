"""
MySQL and MariaDB as a source: their binary log, and their tables as they are now.

One wire format, two dialects. Everything that knows bytes (events, table maps, rows, values) is
pure; sockets are in ``connection``, ``resultset`` and ``chunks``.
"""
