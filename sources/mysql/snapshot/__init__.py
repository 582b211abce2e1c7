"""
The initial read of tables: in chunks, while the log is followed.

- ``chunks`` reads a table in key order, over several connections, and yields chunks.
- ``watermarks`` proves the low and the high watermark of each read: it shows at least one position
  of the log, and at most another. The proofs differ by server, GTIDs and storage engine.
- ``keyset`` writes the SQL for ranges of keys and the cursors of chunks.
- ``sessions`` lends the connections and sets them up.
- ``result_set`` reads a query's rows from the socket, ``text_rows`` decodes them.
"""
