"""
The contract of a sink (``engine.contract_suite``), run against every registered one.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import psycopg
import pytest
from psycopg import sql

from engine.change import Row
from engine.contract import Sink
from engine.contract_suite.replay import replay
from engine.contract_suite.sinks import SinkContract
from engine.contract_suite.target import PIPELINE, Target
from engine.schema import Table
from engine.settings import registry
from sinks import SINKS
from sinks.jsonl import JsonlSettings, JsonlSink
from sinks.memory import MemorySink, MemorySinkSettings, MemoryStore
from sinks.postgres.settings import PostgresSettings
from sinks.postgres.sink import PostgresSink
from tests.support.servers import AnyServer


class MemoryTarget(Target):
    def __init__(self) -> None:
        self.store = MemoryStore()

    def sink(self) -> Sink:
        return MemorySink(MemorySinkSettings("memory:contract"), PIPELINE, self.store)

    def rows(self, table: Table) -> list[Row]:
        return self.store.rows(table.id)


class JsonlTarget(Target):
    """Every commit finishes a segment; the finished segments are replayed."""

    counts_drift = False
    replays = True

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def sink(self) -> Sink:
        settings = JsonlSettings(f"jsonl:{self.folder}", segment_seconds=0)
        return JsonlSink(settings, PIPELINE)

    def rows(self, table: Table) -> list[Row]:
        segments = sorted(self.folder.glob("*.jsonl"))
        return replay(b"".join(path.read_bytes() for path in segments).splitlines(), table)


class PostgresTarget(Target):
    def __init__(self, url: str) -> None:
        self.url = url

    def sink(self) -> Sink:
        return PostgresSink(PostgresSettings(url=self.url, timeout_seconds=10.0), PIPELINE)

    def rows(self, table: Table) -> list[Row]:
        with psycopg.connect(self.url) as connection:
            columns = sql.SQL(", ").join(map(sql.Identifier, table.names))
            name = sql.Identifier(table.id.schema, table.id.name)
            try:
                query = sql.SQL("SELECT {} FROM {}").format(columns, name)
                return connection.execute(query).fetchall()
            except psycopg.errors.UndefinedTable as error:
                raise KeyError(table.id) from error


class TestMemorySink(SinkContract):
    @pytest.fixture
    def target(self) -> Target:
        return MemoryTarget()


class TestJsonlSink(SinkContract):
    @pytest.fixture
    def target(self, tmp_path: Path) -> Target:
        return JsonlTarget(tmp_path / "records")


class TestPostgresSink(SinkContract):
    @pytest.fixture
    def target(
        self, postgres_family: AnyServer, fresh_postgres_database: Callable[[AnyServer], str]
    ) -> Target:
        return PostgresTarget(fresh_postgres_database(postgres_family))


def test_every_registered_sink_is_here() -> None:
    tested = {MemorySink, JsonlSink, PostgresSink}
    assert {registry.load(scheme, SINKS, "tailrace.sinks") for scheme in SINKS} == tested
