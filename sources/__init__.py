"""
The registry of sources: URL scheme → ``module:Class``, which is imported when a URL uses it.

A new source is one module or package and one line here. Other packages register their sources as
entry points in the group ``tailrace.sources``, named by the scheme.
"""

from __future__ import annotations

SOURCES = {
    "mysql": "sources.mysql.source:MySQLSource",
    "mariadb": "sources.mysql.source:MySQLSource",
    "mysql-binlog": "sources.mysql.file_source:BinlogFileSource",
    "memory": "sources.memory:MemorySource",
}
