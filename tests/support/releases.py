"""
Which releases of MySQL and MariaDB have a type, a statement or a setting.
"""

from __future__ import annotations

from typing import NamedTuple

from tests.support.servers import AnyServer

__all__ = ["Since", "Version", "version_of"]

Version = tuple[int, ...]


class Since(NamedTuple):
    """The first release of each server that has something. None: no release has it.

    ``mysql_until`` is the first release of MySQL that no longer has it.
    """

    mysql: Version | None = (5, 5)
    mariadb: Version | None = (10, 0)
    mysql_until: Version | None = None

    def includes(self, server: str, version: Version) -> bool:
        """Whether a release has it; ``server`` is ``mysql`` or ``mariadb``."""
        first = self.mysql if server == "mysql" else self.mariadb
        until = self.mysql_until if server == "mysql" else None
        return first is not None and version >= first and (until is None or version < until)


def version_of(server: AnyServer) -> Version:
    """The version of a server, such as (10, 11, 18)."""
    return tuple(map(int, server.version.split(".")[:3]))
