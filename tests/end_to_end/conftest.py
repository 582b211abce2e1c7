"""
Which end-to-end tests run by default: those on MySQL 9.7 and MariaDB 11.8. `make slow` runs them on
MariaDB 10.11, too, which the tests of the source cover by default. And the fixture of the tests of
value policies.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support import faults
from tests.support.lag import Followed
from tests.support.mysql_sessions import FreshDatabase, Writer
from tests.support.policy_mirror import Mirror
from tests.support.servers import AnyServer

LEFT_TO_SLOW = "mariadb-10.11"


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark them before tests are deselected by their marks."""
    here = Path(__file__).parent
    for item in items:
        if here not in item.path.parents:
            continue
        if LEFT_TO_SLOW in item.name:
            item.add_marker(pytest.mark.slow)


@pytest.fixture
def mirror(
    mysql_family: AnyServer,
    fresh_mysql_database: Callable[[AnyServer], str],
    target_database: str,
) -> Iterator[Mirror]:
    """A mirrored database, with an open connection to each side."""
    made = Mirror(mysql_family, fresh_mysql_database(mysql_family), target_database)
    yield made
    made.close()


@pytest.fixture
def follow(
    postgres: AnyServer, fresh_mysql_database: FreshDatabase, target_database: str
) -> Iterator[Callable[[AnyServer], Followed]]:
    """Makes databases that are followed, and closes them."""
    made: list[Followed] = []

    def make(server: AnyServer) -> Followed:
        made.append(Followed(server, postgres, fresh_mysql_database(server), target_database))
        return made[-1]

    yield make
    for each in made:
        each.close()


@pytest.fixture
def make_mirror(
    fresh_mysql_database: FreshDatabase, tmp_path: Path
) -> Iterator[Callable[..., faults.Mirror]]:
    """A function that makes a mirror from a server to the database of a URL."""
    writers: list[Writer] = []

    def make(server: AnyServer, target: str, source: str = "") -> faults.Mirror:
        writers.append(Writer(server, fresh_mysql_database(server)))
        return faults.Mirror(writers[-1], source or server.url, target, tmp_path)

    yield make
    for writer in writers:
        writer.connection.close()
