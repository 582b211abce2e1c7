"""
The releases of MySQL and MariaDB that can be followed. docs/servers.md says what each of them can.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from engine.errors import SourceError

__all__ = ["NEWEST", "OLDEST", "refuse_too_old", "release_name", "supported", "too_new"]

_Version = tuple[int, ...]

#: The first release of MySQL, and of MariaDB, that can be followed.
OLDEST: Final[dict[bool, _Version]] = {False: (5, 5), True: (10, 0)}
#: The newest releases that the tests use.
NEWEST: Final[dict[bool, _Version]] = {False: (9, 7), True: (11, 8)}


def release_name(mariadb: bool, version: Sequence[int]) -> str:
    """Such as ``MySQL 5.5.9``."""
    return f"{'MariaDB' if mariadb else 'MySQL'} {'.'.join(map(str, version))}"


def supported() -> str:
    """The supported releases, as a phrase."""
    families = (
        f"{release_name(mariadb, OLDEST[mariadb])} to {'.'.join(map(str, NEWEST[mariadb]))}"
        for mariadb in (False, True)
    )
    return " and ".join(families)


def refuse_too_old(mariadb: bool, version: Sequence[int]) -> None:
    """Raise SourceError for a release that cannot be followed."""
    if tuple(version) < OLDEST[mariadb]:
        raise SourceError(
            f"the server is {release_name(mariadb, version)}, which is too old to be followed",
            hint=f"{supported()} can be followed: upgrade the server, or let a replica of such a"
            " release follow it, with binlog_format = ROW and log_slave_updates, and follow that",
        )


def too_new(mariadb: bool, version: Sequence[int]) -> str:
    """What to say of a release that is newer than those of the tests; empty for the others."""
    newest = NEWEST[mariadb]
    if tuple(version[: len(newest)]) <= newest:
        return ""
    return (
        f"{release_name(mariadb, version)} is newer than the releases that this version of Tailrace"
        f" is tested with, {supported()}"
    )
