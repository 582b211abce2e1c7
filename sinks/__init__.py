"""
The registry of sinks: the scheme of a URL → ``module:Class``, which is imported when it is used.

A new sink is one module or package, and one line here. Third-party packages register their sinks in
the entry point group ``tailrace.sinks``, with the scheme as the name.
"""

from __future__ import annotations

SINKS = {
    "postgresql": "sinks.postgres.sink:PostgresSink",
    "postgres": "sinks.postgres.sink:PostgresSink",
    "jsonl": "sinks.jsonl:JsonlSink",
    "memory": "sinks.memory:MemorySink",
}
