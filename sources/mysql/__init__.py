"""
MySQL and MariaDB as a source: the binary log as a stream of changes, and snapshots of tables.

The packages:

- ``binlog``: the stream. Event formats, transactions, XA, and the current position.
  ``binlog/__init__.py`` lists its modules in the order of the data flow.
- ``codec``: the decoder of row images. It is generated for each table version (``codec/rows.py``),
  with an optional accelerator in C.
- ``ddl``: the DDL dialect. It derives a table's next version from a logged statement.
- ``snapshot``: the backfill of tables in chunks (``snapshot/chunks.py``), with the low and high
  watermark of each chunk (``snapshot/watermarks.py``).
- ``preflight``: the findings of ``tailrace check`` about the server and its tables.

The modules here:

- ``source``: ``MySQLSource``, which connects the parts to a server: the connector.
- ``file_source``: ``BinlogFileSource``, the same stream from log files; ``schema_dump``: the
  definitions of tables for it.
- ``position`` and ``gtid``: the position of a stream (Debezium's offset), MySQL's GTID sets and
  MariaDB's GTID states.
- ``resume``: the resume position. It compares a stored position with the server's log, and requests
  the dump that continues there.
- ``server_info``: a server's kind, identity and settings, and the end of its log.
- ``settings``: the settings of both sources, and the patterns that select tables.
- ``catalog``: tables from ``information_schema``.
- ``unlogged``: changes that are not logged.

Connections and types, which a source and a sink of this database share, are in
``engine/databases/mysql``. The two servers have one wire format and two SQL dialects. The code that
reads bytes (events, table maps, rows, values) is pure: it does no I/O.
"""
