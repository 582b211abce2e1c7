"""
Few changes are applied and committed in one round trip, or not at all.
"""

from __future__ import annotations

from collections.abc import Collection

import psycopg
import pytest

from engine.change import Change, SchemaChange
from engine.checkpoint import Checkpoint
from engine.contract import Applied
from engine.errors import ApplyError, Fenced, SinkLost
from engine.schema import Table, TableId
from tests.support.histories import KEYED, KEYLESS, number
from tests.support.targets import Target, delete, insert, opened, update

PAIR = Table(TableId("shop", "pair"), (number("id"), number("v")), key=(0,))


def at_once(
    target: Target, *changes: Change, in_backfill: Collection[TableId] = ()
) -> Applied | None:
    target.commits += 1
    checkpoint = Checkpoint(target.pipeline, target.epoch, str(target.commits), 1.5, {})
    return target.run(target.sink.apply_and_commit(changes, in_backfill, checkpoint))


def position(target: Target) -> str | None:
    ((found,),) = target.query("SELECT position FROM tailrace.checkpoint")
    return None if found is None else str(found)


def test_few_changes_of_several_tables_and_their_checkpoint(target: Target) -> None:
    target.create(PAIR, KEYLESS)
    assert at_once(target, insert(PAIR, (1, 1), (2, 2)), insert(KEYLESS, (1, "x"))) == Applied()
    assert at_once(target, update(PAIR, ((1, 1), (1, 5))), delete(PAIR, (2, 2))) == Applied()
    assert position(target) == str(target.commits)
    assert target.rows(PAIR) == [(1, 5)]
    assert target.rows(KEYLESS) == [(1, "x")]
    again = at_once(target, insert(PAIR, (1, 7)), in_backfill={PAIR.id})
    assert again == Applied()
    assert target.rows(PAIR) == [(1, 7)]
    target.do(insert(PAIR, (3, 3)))
    assert at_once(target, delete(PAIR, (9, 9))) == Applied(drift={PAIR.id: 1})


def test_drift_and_errors_change_nothing(target: Target) -> None:
    """Then ``apply`` and ``commit`` repair the drift, or name the error."""
    target.create(PAIR)
    target.do(insert(PAIR, (1, 1)))
    before = position(target)
    missing, present = update(PAIR, ((8, 8), (8, 9))), insert(PAIR, (1, 4))
    wrong = insert(PAIR, (5, 99999999999))
    for changes in ((insert(PAIR, (2, 2)), missing), (present,), (wrong,)):
        assert at_once(target, *changes) is None
        assert (position(target), target.rows(PAIR)) == (before, [(1, 1)])
    assert target.do(missing, present).drift == {PAIR.id: 2}
    assert target.rows(PAIR) == [(1, 4), (8, 9)]
    error = target.refuses(wrong)
    assert isinstance(error, ApplyError)
    assert error.table == "shop.pair"


def test_an_error_before_the_first_row_names_no_table(target: Target) -> None:
    target.create(PAIR, KEYED)
    session = target.sink._session
    for changes in ([insert(PAIR, (1, 1))], [insert(PAIR, (1, 1)), insert(KEYED, (1, 1, "x", ""))]):
        target.run(session.begin())
        session.later("SELECT 1/0")
        error = target.refuses(*changes)
        assert "DivisionByZero" in error.message
        assert error.table is None
    assert target.refuses(insert(PAIR, (5, 99999999999))).table == "shop.pair"


def test_changes_that_need_more_than_one_round_trip(target: Target) -> None:
    target.create(PAIR, KEYED)
    many = insert(PAIR, *((n, n) for n in range(3000)))
    large = insert(KEYED, (1, 1, "x", ""))
    large.size = 1 << 30
    for change in (many, large, SchemaChange("", None, KEYLESS)):
        assert at_once(target, change) is None
    assert target.rows(PAIR) == []


def test_an_older_engine_commits_nothing(target: Target, url: str) -> None:
    target.create(PAIR)
    with opened(url) as newer:
        assert newer.epoch > target.epoch
        assert at_once(target, insert(PAIR, (1, 1))) is None
        with pytest.raises(Fenced):
            target.do(insert(PAIR, (1, 1)))
    assert target.rows(PAIR) == []


def test_a_connection_that_is_lost_or_a_table_that_is_locked(target: Target, url: str) -> None:
    target.create(PAIR)
    with psycopg.connect(url) as other:
        other.execute("LOCK TABLE shop.pair")
        target.run(target.sink._session.execute("SET lock_timeout = '100ms'"))
        with pytest.raises(SinkLost, match="LockNotAvailable") as raised:
            at_once(target, insert(PAIR, (1, 1)))
        assert raised.value.table == "shop.pair"
        other.rollback()
        target.run(target.sink.rollback())
        pid = target.sink._session.connection.info.backend_pid
        other.execute("SELECT pg_terminate_backend(%s, 5000)", [pid])
        other.rollback()
        with pytest.raises(SinkLost) as raised:
            at_once(target, insert(PAIR, (1, 1)))
        assert raised.value.table is None
        assert other.execute("SELECT count(*) FROM shop.pair").fetchone() == (0,)
