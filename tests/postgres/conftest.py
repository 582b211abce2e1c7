"""
Fixtures for tests of the PostgreSQL sink: an open sink, and its target.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from engine.change import SchemaChange
from tests.conftest import AnyServer
from tests.postgres.tables import table
from tests.support.targets import Fresh, Target, opened, opened_database


@pytest.fixture
def url(postgres_family: AnyServer, fresh_postgres_database: Fresh) -> str:
    """A database of its own for each test."""
    return fresh_postgres_database(postgres_family)


@pytest.fixture
def target(url: str) -> Iterator[Target]:
    with opened(url) as target:
        yield target


@pytest.fixture(scope="module")
def module_target(postgres: AnyServer) -> Iterator[Target]:
    with opened_database(postgres) as target:
        yield target


@pytest.fixture
def shared(module_target: Target) -> Iterator[Target]:
    """A target that the tests of a module share; each of them finds it without ``shop.t``."""
    yield module_target
    module_target.run(module_target.sink.rollback())
    module_target.do(SchemaChange("", table(), None))
