"""
The supervisor: many pipelines, each in a process of its own, and one HTTP server for all.

    processes   the process table: start, watch, restart with back-off, stop
    engines     the API of each process, over a Unix socket that only this user can open
    api         the HTTP server: the index, the status of all, and the API of each pipeline
    openapi     the same as an OpenAPI document
    merging     the metrics of all as one answer

The engines are the same as those of ``tailrace run CONFIG``. ``engine.cli.supervise`` puts all
together, and ``engine.cli.supervised`` is the engine's side.
"""
