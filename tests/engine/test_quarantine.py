"""Errors that concern one table: the table is left out, and the others go on."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import msgspec
import pytest

from engine.change import Change, Rows, SchemaChange
from engine.contract import Applied
from engine.errors import ApplyError, ConfigError, DecodeError, TailraceError
from engine.remedies import and_then, rendered
from engine.schema import TableId
from engine.settings.loader import ErrorSettings
from sinks.memory import MemorySink, MemorySinkSettings, MemoryStore
from sources.memory import MemoryDatabase
from sources.mysql.ddl.masked import masked
from tests.support.memory_pipeline import KEYED, insert, make_pipeline, run

OTHER = msgspec.structs.replace(KEYED, id=TableId(KEYED.id.schema, "other"))


class Refusing(MemorySink):
    """A target that refuses rows with a negative id."""

    def __init__(self, store: MemoryStore, error: type[TailraceError] = ApplyError) -> None:
        super().__init__(MemorySinkSettings("memory:test"), "test", store)
        self.named = True
        self._error = error

    async def apply(
        self, changes: Sequence[Change], in_backfill: Collection[TableId] = ()
    ) -> Applied:
        for change in changes:
            if isinstance(change, Rows) and any(row[0] < 0 for row in change.after or ()):  # type: ignore[operator]
                table = change.table.id if self.named else None
                raise self._error("the target refuses a row", hint="correct it", table=table)
        return await super().apply(changes, in_backfill)


def in_trouble() -> tuple[MemoryDatabase, MemoryStore]:
    """A mirrored database, whose log goes on with a row that the target refuses."""
    database, store = MemoryDatabase(), MemoryStore()
    for table in (KEYED, OTHER):
        database.load(table, [(1, "old")])
    run(make_pipeline(database, store, sink=Refusing(store)), until_caught_up=True)
    database.commit(insert(OTHER, (2, "before")))
    database.commit(insert(KEYED, (2, "in the same transaction"), (-1, "refused")))
    database.commit(insert(OTHER, (3, "after")), insert(KEYED, (3, "after")))
    return database, store


def test_the_table_is_quarantined_and_the_others_go_on() -> None:
    database, store = in_trouble()
    pipeline = make_pipeline(database, store, sink=Refusing(store), config="my shop.toml")
    run(pipeline, until_caught_up=True)
    keyed, other = pipeline.status().tables
    assert (keyed.state, other.state) == ("quarantined", "live")
    assert keyed.reason == "the target refuses a row"
    assert keyed.position in ("0", "1")
    assert (keyed.since or 0) > 1e9
    assert keyed.remedy == (
        "correct it; `tailrace backfill 'my shop.toml' shop.keyed` reads the table again"
    )
    assert store.rows(KEYED.id) == [(1, "old")]
    assert store.rows(OTHER.id) == [(1, "old"), (2, "before"), (3, "after")]


@pytest.mark.parametrize("kind", ["no table", "of the log", "policy", "policy of the table"])
def test_what_stops_the_pipeline(kind: str) -> None:
    """GIVEN an error that names no table, or does not concern one, or the policy to stop WHEN it
    comes THEN the pipeline ends with it, and a later start has the same checkpoint."""
    database, store = in_trouble()
    sink = Refusing(store, TailraceError if kind == "of the log" else ApplyError)
    sink.named = kind != "no table"
    errors = {
        "policy": ErrorSettings(on_error="stop"),
        "policy of the table": ErrorSettings(tables={"shop.k*": "stop"}),
    }.get(kind)
    with pytest.raises(TailraceError, match="the target refuses") as caught:
        run(make_pipeline(database, store, sink=sink, errors=errors), until_caught_up=True)
    if errors is not None:
        assert 'on_error = "quarantine"' in caught.value.hint
    assert store.rows(KEYED.id) == [(1, "old")]


def test_an_error_before_the_first_checkpoint_stops() -> None:
    database, store = MemoryDatabase(), MemoryStore()
    database.load(KEYED, [(1, "old")])

    class Full(MemorySink):
        async def apply(
            self, changes: Sequence[Change], in_backfill: Collection[TableId] = ()
        ) -> Applied:
            raise DecodeError("the target has such a table", table=KEYED.id)

    sink = Full(MemorySinkSettings("memory:test"), "test", store)
    with pytest.raises(DecodeError):
        run(make_pipeline(database, store, sink=sink), until_caught_up=True)
    assert store.contents == {}


@pytest.mark.parametrize("renamed", [False, True], ids=["dropped", "renamed"])
def test_a_table_that_goes_in_the_same_batch_is_quarantined(renamed: bool) -> None:
    """GIVEN a row that the target refuses, and a DROP or RENAME of its table right after it WHEN
    both are one batch THEN the table is left out before the row, and the others go on."""
    database, store = MemoryDatabase(), MemoryStore()
    for table in (KEYED, OTHER):
        database.load(table, [(1, "old")])
    run(make_pipeline(database, store, sink=Refusing(store)), until_caught_up=True)
    new = msgspec.structs.replace(KEYED, id=TableId(KEYED.id.schema, "new"))
    after = new if renamed else None
    database.commit(insert(KEYED, (-1, "refused")), SchemaChange("", KEYED, after))
    database.commit(insert(OTHER, (2, "after")))
    pipeline = make_pipeline(database, store, sink=Refusing(store))
    run(pipeline, until_caught_up=True)
    assert store.rows(OTHER.id) == [(1, "old"), (2, "after")]
    assert str(KEYED.id) not in {it.table for it in pipeline.status().tables if it.state == "live"}


def test_a_table_is_quarantined_during_the_first_backfill() -> None:
    database, store = MemoryDatabase(), MemoryStore()
    for table, rows in ((KEYED, [(1, "a"), (-1, "refused")]), (OTHER, [(1, "a")])):
        database.load(table, rows)
    pipeline = make_pipeline(database, store, sink=Refusing(store))
    run(pipeline, until_caught_up=True)
    assert [it.state for it in pipeline.status().tables] == ["quarantined", "live"]
    assert store.rows(OTHER.id) == [(1, "a")]


def test_the_last_pattern_that_matches_counts() -> None:
    settings = ErrorSettings("stop", {"shop.*": "quarantine", "shop.orders": "stop"})
    policies = [settings.policy(TableId("shop", name)) for name in ("orders", "items")]
    assert [*policies, settings.policy(TableId("hr", "staff"))] == ["stop", "quarantine", "stop"]
    # As in tables of [source], where the server stores all names in lower case.
    assert ErrorSettings(tables={"Shop.Ord*": "stop"}).policy(TableId("shop", "orders")) == "stop"
    assert ErrorSettings(tables={"shop.o*": "stop"}).policy(TableId("Shop", "o")) == "quarantine"
    with pytest.raises(ConfigError, match="'orders' is not a pattern"):
        ErrorSettings(tables={"orders": "stop"})


def test_a_remedy_names_the_command_line_as_it_is_typed() -> None:
    hint = and_then("correct the value.", "`tailrace backfill CONFIG TABLE` reads it")
    assert and_then(hint, "`tailrace backfill CONFIG TABLE` reads it") == hint
    assert rendered(hint, config="it's.toml", table="shop.a b") == (
        "correct the value; `tailrace backfill 'it'\"'\"'s.toml' 'shop.a b'` reads it"
    )
    line = 'add "TABLE" to exclude, or "TABLE.day" = { zero_date = "text" }'
    assert rendered(line, table="shop.a") == line.replace("TABLE", "shop.a")
    assert rendered("see CHECK TABLE and `tailrace check CONFIG`") == (
        "see CHECK TABLE and `tailrace check CONFIG`"
    )


@pytest.mark.parametrize(
    ("statement", "shown"),
    [
        (
            "ALTER TABLE t\n ADD c varchar(20) DEFAULT 'secret'",
            "ALTER TABLE t ADD c varchar(20) DEFAULT ?",
        ),
        ("UPDATE t SET a = 'x\\'y', b = 12 WHERE c=\"z\"", "UPDATE t SET a = ?, b = ? WHERE c=?"),
        (
            "ALTER TABLE t ADD c varchar(20) AS (IF(n = 918273645, 1, 2))",
            "ALTER TABLE t ADD c varchar(20) AS (IF(n = ?, 1, 2))",
        ),
        ("INSERT INTO t VALUES (X'61', 0x61, 1e3)", "INSERT INTO t VALUES (X?, ?, ?)"),
    ],
)
def test_a_statement_is_shown_without_its_values(statement: str, shown: str) -> None:
    assert masked(statement) == shown
    assert len(masked(f"DROP TABLE {'t, ' * 1000} t")) < 510
