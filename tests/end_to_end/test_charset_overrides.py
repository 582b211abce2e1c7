"""
Columns whose bytes have another charset than the declared one: the policy ``charset``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import psycopg
import pytest

from engine.errors import ConfigError
from engine.ops.metrics import Metrics
from engine.pipeline.loop import Pipeline
from engine.settings.loader import BackfillSettings, BatchSettings, RetrySettings
from engine.toolkit.policies import ReadPolicies
from sinks.postgres.settings import PostgresSettings
from sinks.postgres.sink import PostgresSink
from sources.mysql.settings import MySQLSettings
from sources.mysql.source import MySQLSource
from tests.support.mirror import catch_up
from tests.support.mysql_sessions import Writer
from tests.support.policy_mirror import verify_stopped
from tests.support.servers import AnyServer

Fresh = Callable[[AnyServer], str]

NAMES = ["Ä", "Größe", "Ωμέγα", "Объём", "é", "日本", "😀", "plain"]


class Mirror:
    """A database that is mirrored with policies."""

    def __init__(self, server: AnyServer, target: str, database: str) -> None:
        self.writer = Writer(server, database)
        self.settings = PostgresSettings(target)
        self._patterns = (f"{database}.*",)

    def settings_of(self, values: ReadPolicies) -> MySQLSettings:
        return MySQLSettings(
            url=self.writer.server.url, tables=self._patterns, heartbeat_seconds=1.0, values=values
        )

    def run(self, **columns: str) -> None:
        """Run a pipeline with charsets by column of the table ``t`` until the target is current."""
        pattern = f"{self.writer.database}.t."
        overrides = {pattern + name: {"charset": charset} for name, charset in columns.items()}
        pipeline = Pipeline(
            "mirror",
            MySQLSource(self.settings_of(ReadPolicies(columns=overrides))),
            PostgresSink(self.settings, "mirror"),
            batch=BatchSettings(),
            backfill=BackfillSettings(chunk_rows=2),
            retry=RetrySettings(give_up_seconds=30.0),
            metrics=Metrics("mirror"),
        )
        catch_up(pipeline)

    def rows(self, columns: str) -> list[tuple[Any, ...]]:
        query = f"SELECT {columns} FROM {self.writer.database}.t ORDER BY n"
        with psycopg.connect(self.settings.url) as there:
            return there.execute(query).fetchall()  # type: ignore[call-overload]

    def differences(self) -> int:
        """The number of rows that `tailrace verify` finds different."""
        report = verify_stopped(self.writer.server, self.settings)
        return sum(len(table.differences) for table in report.tables)


@pytest.fixture
def mirror(
    mysql_family: AnyServer,
    postgres: AnyServer,
    fresh_mysql_database: Fresh,
    fresh_postgres_database: Fresh,
) -> Mirror:
    database = fresh_mysql_database(mysql_family)
    mirror = Mirror(mysql_family, fresh_postgres_database(postgres), database)
    mirror.writer(
        "CREATE TABLE t (name VARCHAR(40) CHARACTER SET latin1 PRIMARY KEY, note TEXT CHARSET"
        " latin1, kanji VARCHAR(9) CHARACTER SET sjis, fine VARCHAR(9) CHARACTER SET latin1, n INT)"
    )
    return mirror


def _insert(mirror: Mirror, *names: str) -> None:
    for name in names:
        utf8, kanji = name.encode().hex(), "炻①".encode("cp932").hex()
        latin1 = f"CONVERT(x'{utf8}' USING latin1)"
        mirror.writer(
            f"INSERT INTO t VALUES ({latin1}, {latin1}, CONVERT(x'{kanji}' USING sjis), 'Größe',"
            f" {NAMES.index(name)})"
        )


def test_a_charset_is_overridden_everywhere(mirror: Mirror) -> None:
    """In a key and in other columns, in the backfill, the stream, and `tailrace verify`."""
    overrides = {"name": "utf8mb4", "note": "utf8mb4", "KANJI": "cp932"}
    _insert(mirror, *NAMES[:6])
    mirror.run(**overrides)
    expected = [(name, name, "炻①", "Größe") for name in NAMES]
    assert mirror.rows("name, note, kanji, fine") == expected[:6]
    _insert(mirror, *NAMES[6:])
    mirror.writer(
        "UPDATE t SET n = -1, note = name WHERE n = 1",
        "DELETE FROM t WHERE n = 3",
        "UPDATE t SET n = 1 WHERE n = -1",
    )
    mirror.run(**overrides)
    assert mirror.rows("name, note, kanji, fine") == expected[:3] + expected[4:]
    assert mirror.differences() == 0
    mirror.writer.connection.close()


def test_a_changed_override_reads_the_table_again(mirror: Mirror) -> None:
    before = {"name": "utf8mb4", "note": "utf8mb4", "kanji": "cp932"}
    after = {"name": "utf8mb4", "remark": "utf8mb4", "kanji": "cp932"}
    _insert(mirror, "Größe")
    mirror.run(kanji="cp932")
    assert mirror.rows("note") == [("GrÃ¶ÃŸe",)]
    mirror.run(**before)
    assert mirror.rows("note") == [("Größe",)]
    mirror.writer("ALTER TABLE t CHANGE note remark TEXT CHARACTER SET latin1, ADD more INT")
    mirror.writer("UPDATE t SET remark = CONCAT(remark, remark)")
    mirror.run(**before)
    assert mirror.rows("remark") == [("GrößeGröße",)]
    with pytest.raises(ConfigError, match="does not name this column") as error:
        mirror.run(**before)
    assert '.t.remark" = { charset = "utf8mb4" }' in error.value.hint
    mirror.run(**after)
    mirror.writer("ALTER TABLE t MODIFY remark TEXT CHARACTER SET utf8mb4")
    mirror.run(**after)
    assert mirror.rows("remark") == [("GrößeGröße".encode().decode("cp1252"),)]
    mirror.writer.connection.close()


def test_bytes_without_a_character_in_the_override(mirror: Mirror) -> None:
    """They follow the policy `invalid_text`, as in any other column; `verify` knows that."""
    overrides = {"name": "utf8mb4", "note": "utf8mb4", "kanji": "cp932"}
    invalid = "CONVERT(x'c3a4ff41e2' USING latin1)"
    mirror.writer(f"INSERT INTO t (name, note, n) VALUES ('key', {invalid}, 1)")
    mirror.run(**overrides)
    mirror.writer(
        f"INSERT INTO t (name, note, n) VALUES ({invalid}, 'ä', 2), ('other', {invalid}, 3)",
        f"UPDATE t SET kanji = 'x' WHERE name = {invalid}",
    )
    mirror.run(**overrides)
    note = "ä\ufffdA\ufffd"
    rows = mirror.rows("note, n")
    assert rows == [(note, 1), ("\ufffd", 2), (note, 3)]
    assert mirror.differences() == 0
    mirror.writer("DELETE FROM t WHERE n > 1")
    mirror.run(**overrides)
    assert mirror.rows("note, n") == rows[:1]
    mirror.writer.connection.close()


def test_an_unknown_charset_is_refused() -> None:
    with pytest.raises(ConfigError, match="'utf-8'"):
        MySQLSource(MySQLSettings(url="mysql://x@y/", values=ReadPolicies(charset="utf-8")))
