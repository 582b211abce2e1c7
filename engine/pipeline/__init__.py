"""
The pipeline: from a source to a sink.

    reader_queue      changes from the thread that reads the log, bounded in bytes
    batching          changes → batches that end with a transaction
    table_progress    the progress of each table's backfill, and the changes that it admits
    writer            the open target transaction: apply, count, commit with the checkpoint
    backfill          chunks of tables, in time slices between two batches
    discovery         new tables: found in the catalog, followed from a known position
    commands          what operators ask a running pipeline to do
    loop              the order of all of it, and retries
"""
