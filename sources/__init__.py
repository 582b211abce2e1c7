"""
The registry of sources: the scheme of a URL → ``module:Class``, imported only when it is used.

A new source is one file or folder and one line here. Packages of third parties register theirs
under the entry point group ``tailrace.sources``, by the same names.
"""

from __future__ import annotations

SOURCES = {
    "mysql": "sources.mysql.source:MySQLSource",
    "mariadb": "sources.mysql.source:MySQLSource",
    "mysql-binlog": "sources.mysql.file_source:BinlogFileSource",
    "memory": "sources.memory:MemorySource",
}
