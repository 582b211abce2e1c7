"""
The initial read of tables: in chunks, while the log is followed.

- ``chunks`` reads a table in key order, over several connections, and yields chunks.
- ``watermarks`` proves which part of the log a read shows: everything up to its low watermark, and
  nothing after its high watermark. The proof depends on the server, GTIDs and the storage engine.
- ``keyset`` writes the SQL for ranges of keys and the cursors of chunks.
- ``sessions`` lends the connections and sets them up.
- ``result_set`` reads a query's rows from the socket, ``text_rows`` decodes them.
"""
