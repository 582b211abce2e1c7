"""What a pipeline counts: its lag, and the work in a batch."""

from __future__ import annotations

import pytest

from engine.change import Begin, Commit, Rows
from engine.pipeline.counters import Counters, WorkCounter
from tests.support.memory_pipeline import KEYED, KEYLESS, insert


def test_the_lag_of_a_silent_log_is_0_while_its_heartbeats_come() -> None:
    counters = Counters()
    assert counters.lag_seconds(1000.0) is None
    counters.beat(1000.0)
    assert counters.lag_seconds(1003.0) == 3.0
    counters.silent = True
    assert counters.lag_seconds(1003.0) == 0.0
    counters.beat(1004.0, moved=False)
    assert (counters.lag_seconds(1009.9), counters.lag_seconds(1012.5)) == (0.0, 8.5)
    for at in (1012.0, 1014.0, 1016.0):
        counters.beat(at, moved=False)
    assert (counters.lag_seconds(1018.9), counters.lag_seconds(1021.0)) == (0.0, 5.0)


def test_changes_of_other_tables_do_not_make_a_heartbeat_overdue() -> None:
    """GIVEN heartbeats every 4 seconds, and some more because other tables change WHEN the log is
    idle again THEN the lag is 0 until the next one.
    """
    counters = Counters()
    counters.silent = True
    counters.beat(1000.0)
    counters.beat(1004.0, moved=False)
    for at in (1004.2, 1004.4, 1006.0):
        counters.beat(at)
    assert (counters.lag_seconds(1011.9), counters.lag_seconds(1012.1)) == (0.0, pytest.approx(6.1))


def test_the_lag_of_a_transaction_that_is_being_applied_begins_with_its_commit() -> None:
    """Also right after a silent log, and while the target does not answer."""
    counters = Counters()
    counters.beat(1000.0)
    counters.silent = True
    counters.beat(1004.0)
    counters.begin(1006.0)
    assert counters.lag_seconds(1007.5) == 1.5
    counters.begin(0.0)
    assert counters.lag_seconds(1008.0) == 2.0
    unknown = Counters()
    unknown.begin(1006.0)
    assert unknown.lag_seconds(1007.0) is None


def test_the_lag_of_a_transaction_that_waits_begins_with_its_commit() -> None:
    """GIVEN a target that has stopped answering while the log was silent WHEN the source commits
    THEN the lag grows at once, from that commit on.
    """
    counters = Counters()
    counters.silent = True
    counters.beat(1000.0)
    assert counters.lag_seconds(1003.0) == 0.0
    assert counters.lag_seconds(1003.0, waiting_since=1002.5) == 0.5
    assert counters.lag_seconds(1060.0, waiting_since=1002.5) == 57.5
    # Clocks that differ: the target equalled the source at the heartbeat.
    assert counters.lag_seconds(1003.0, waiting_since=999.0) == 3.0
    counters.begin(1002.5)
    assert counters.lag_seconds(1060.0, waiting_since=1050.0) == 57.5


def test_a_clock_that_is_set_hides_no_lag() -> None:
    """GIVEN a silent log WHEN the source's clock is set forward, or back THEN the lag grows as
    before if the source goes away right after.
    """
    counters = Counters()
    counters.expect_heartbeats(4.0)
    counters.silent = True
    counters.beat(1000.0)
    counters.beat(1004.0 + 3600.0, moved=False)
    assert counters.lag_seconds(1011.0 + 3600.0) == 7.0
    assert counters.lag_seconds(1011.0) == 0.0
    assert counters.lag_seconds(1018.0) == 7.0


def test_the_lag_of_a_transaction_whose_time_is_in_the_future() -> None:
    """GIVEN a transaction that waits for the target WHEN its session has set the time to tomorrow
    THEN the lag counts from the last heartbeat.
    """
    counters = Counters()
    counters.silent = True
    counters.beat(1000.0)
    assert counters.lag_seconds(1060.0, waiting_since=87400.0) == 60.0


def test_a_transaction_in_pieces_counts_once() -> None:
    counter, begin = WorkCounter(), Begin("1", "0", 0.0)
    rows, end = insert(KEYED, (1, "a"), (2, "b")), Commit("1", 0.0)
    kind = (KEYED.id, "insert")
    whole = counter.count([begin, rows, rows, end, begin, rows, end])[kind]
    assert (whole.rows, whole.size, whole.transactions) == (6, 60, 2)
    pieces = [[begin, rows], [rows], [insert(KEYLESS, (1, "x"))], [rows, end, begin, rows]]
    counts = [counter.count(piece).get(kind) for piece in pieces]
    assert [it and it.transactions for it in counts] == [1, 0, None, 1]
    assert counter.count([rows, end])[kind].transactions == 0
    assert counter.count([begin, rows, end])[kind].transactions == 1


def test_the_time_of_a_table_s_last_change_is_that_of_its_transaction() -> None:
    counter = WorkCounter()
    one, other = insert(KEYED, (1, "a")), insert(KEYLESS, (1, "a"))
    begin = Begin("1", "0", 0.0)
    counter.count([begin, one, other, Commit("1", 5.0), begin, one, Commit("2", 6.0), begin, other])
    assert counter.take_times() == {KEYED.id: 6.0}
    counter.count([Rows(KEYED, "read", None, [(2, "b")])])
    assert not counter.take_times()
    counter.count([Commit("3", 7.0), begin, one, Commit("4", 0.0)])
    assert counter.take_times() == {KEYLESS.id: 7.0}
    counter.count([begin, other, Commit("5", 8.0), begin, one, Commit("6", 9.0)])
    assert counter.take_times() == {KEYED.id: 9.0, KEYLESS.id: 8.0}
