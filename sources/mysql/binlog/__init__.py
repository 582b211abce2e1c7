"""
The binary log: from the server's bytes to changes of followed tables.

In the order in which a change passes through them:

- ``connection``: the replication connection that requests the dump (COM_BINLOG_DUMP and its GTID
  forms) and receives it.
- ``packets``: the packets of that connection, cut into whole events.
- ``events`` and ``compression``: the format of each event; compressed transactions and rows.
- ``query_event`` and ``temporary_tables``: logged statements with the state of their session; which
  names in them mean temporary tables.
- ``stream``: the state machine that makes ``Begin``, ``Rows``, ``SchemaChange``, ``Truncate`` and
  ``Commit`` from events. It has one handler for each event type.
- ``tracking``: the schema history, that is the version of each followed table at the current place
  in the log. Table maps and DDL statements (``sources/mysql/ddl``) move it on.
- ``xa``: the rows of prepared XA transactions, kept until they are committed or rolled back.
- ``stream_position``: the current file, offset, GTIDs and prepared transactions.
- ``replay``: event groups that are read again after a resume, and are skipped.

The row images inside the row events are decoded by ``sources/mysql/codec``. Only ``connection``
uses the network, and only ``xa`` a temporary file; the rest does no I/O.
"""
