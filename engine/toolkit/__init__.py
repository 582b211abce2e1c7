"""
What sources and sinks are made of. Every module is pure, or works on local files only.

    codegen         generated source → a compiled function
    accelerator     the switch for the optional C codecs (buffer.h is their shared buffer)
    compaction      a batch → the net changes per table and key
    segments        a batch, cut at schema changes
    table_diff      two versions of a table → the columns and keys that changed
    canonical       one text per value, to compare two databases
    record          changes → JSON lines (debezium: in Debezium's envelope)
    memory_table    the rows of a table in memory
    state_file      a checkpoint in a folder: lock, epoch, atomic replace
    state_migration stored state of an older layout → the current one
"""
