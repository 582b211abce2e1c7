"""
The PostgreSQL sink: applies changes set by set, exactly once.

Rows, tables, the checkpoint and the epoch are written in one transaction of the target, so the
stored position always matches the data.

    sink          PostgresSink: applies batches, commits; start reading here
    state         the checkpoint and the table versions, in the schema ``tailrace``; fencing
    layout        the tables of that schema, and their upgrades
    session       the connection: transactions, deadlines, errors, settings of the session
    watch         a second connection, which tells whether the first one still works
    settings      the options of ``[sink]``

    apply         how net changes become statements; drift
    statements    the SQL of these statements, for one table version
    staging       the staging tables, which COPY loads
    copy          rows to COPY text and to parameters: the generated encoder
    large_rows    values of many megabytes, slice by slice
    accelerator   the same in C (``_accelerator.c``): programs for it

    schema        executes schema changes: create, alter, truncate, index, drop
    ddl           the statements of a schema change
    conversions   which changes of a column's type are possible, and how
    defaults      column defaults as SQL literals
    preflight     the findings of ``tailrace check``

A new type mapping starts in ``engine.databases.postgres.types`` (the PostgreSQL type of each
neutral type), and goes on in ``copy`` and ``accelerator`` (how a value is written),
``conversions`` and ``defaults``. The names of tables and their quoting, the translation of errors
and the reader for ``tailrace verify`` are in ``engine.databases.postgres``, too.
"""
