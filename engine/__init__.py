"""
The engine: what moves changes from any source to any sink, in order and exactly once.

Its one idea: the engine knows neither MySQL nor PostgreSQL.  It sees the
protocols in `engine.contract`; only `engine.cli.main` wires real databases to it.
"""
