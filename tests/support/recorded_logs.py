"""
The recorded logs in `tests/fixtures/binlog`, for tests without a server.

`tests/support/record_fixtures.py` records them.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from sources.mysql.binlog.compression import cut_events

__all__ = ["FIXTURES", "RECORDED", "events", "recorded"]

FIXTURES = Path(__file__).parents[1] / "fixtures" / "binlog"
RECORDED = ("mysql-9.7", "mariadb-10.11", "mariadb-11.8")

recorded = pytest.mark.parametrize("name", RECORDED)


def events(name: str) -> Iterator[tuple[str, list[bytes]]]:
    """The name and the events of each file of a recorded log."""
    for path in sorted((FIXTURES / name).glob("binlog.*")):
        found, rest = cut_events(path.read_bytes()[4:])
        assert not rest
        yield path.name, found
