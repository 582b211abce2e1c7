"""
The registry of sinks: the scheme of a URL → ``module:Class``, imported only when it is used.

A new sink is one file or folder and one line here. Packages of third parties register theirs under
the entry point group ``tailrace.sinks``, by the same names.
"""

from __future__ import annotations

SINKS = {
    "postgresql": "sinks.postgres.sink:PostgresSink",
    "postgres": "sinks.postgres.sink:PostgresSink",
    "jsonl": "sinks.jsonl:JsonlSink",
    "memory": "sinks.memory:MemorySink",
}
