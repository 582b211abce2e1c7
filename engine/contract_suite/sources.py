"""
The contract of a source (``engine.contract.Source``) as test classes.

A source follows a log that grows (``LiveSourceContract``) or a log that ends
(``FiniteSourceContract``). If its tables can be read too, the test class also derives from
``engine.contract_suite.snapshots.SnapshotSourceContract``.
"""

from __future__ import annotations

import threading
import time
from typing import ClassVar

import msgspec
import pytest

from engine.change import Change, Commit, Heartbeat, Rows, SchemaChange
from engine.contract import Finding, SnapshotSource
from engine.contract_suite.origin import (
    DEADLINE_SECONDS,
    HISTORY,
    PROMPT_SECONDS,
    Origin,
    catalog_of,
    delete,
    expected,
    follow,
    framed,
    insert,
    steps,
    watched,
)

__all__ = ["FiniteSourceContract", "LiveSourceContract", "SourceContract"]


class SourceContract:
    """The rules for every source. A subclass, whose name starts with ``Test``, overrides the
    fixture ``origin``. Derive from ``LiveSourceContract`` or ``FiniteSourceContract``.
    """

    #: Whether the class holds the rules for tables that can be read.
    reads_tables: ClassVar[bool] = False

    @pytest.fixture
    def origin(self) -> Origin:
        """A new origin for one test, with empty tables."""
        raise NotImplementedError("override the fixture 'origin' in your test class")

    def test_the_test_class_fits_the_source(self, origin: Origin) -> None:
        """``SnapshotSourceContract`` belongs to exactly those sources that have its methods."""
        source = origin.source()
        assert isinstance(source, SnapshotSource) == self.reads_tables
        assert issubclass(source.Settings, msgspec.Struct)
        assert isinstance(self, LiveSourceContract | FiniteSourceContract)

    def test_a_constructor_does_nothing_and_close_is_harmless(self, origin: Origin) -> None:
        source = origin.source()
        source.stop()
        source.close()
        source.close()

    def test_a_preflight_finds_no_error(self, origin: Origin) -> None:
        origin.execute(*HISTORY)
        with watched(origin.source()) as source:
            findings = source.check()
        assert findings
        assert all(isinstance(finding, Finding) for finding in findings)
        assert [finding for finding in findings if finding.level == "error"] == []

    def test_transactions_come_whole_framed_and_in_order(self, origin: Origin) -> None:
        origin.execute(*HISTORY)
        transactions, _ = follow(origin, origin.start(), len(HISTORY))
        assert steps(transactions) == expected(*HISTORY)
        ids = [transaction.begin.transaction for transaction in transactions]
        assert len(set(ids)) == len(ids)
        now = time.time()
        for transaction in transactions:
            assert now - 600 < transaction.commit.committed_at <= now + 5

    def test_a_table_is_created_before_its_first_rows_unless_it_is_known(
        self, origin: Origin
    ) -> None:
        """A source without a catalog shows its tables in the log."""
        origin.execute(*HISTORY)
        known = {table.id: table for table in catalog_of(origin.source())}
        created: list[SchemaChange] = []
        _, changes = follow(origin, origin.start(), len(HISTORY))
        for change in changes:
            if isinstance(change, SchemaChange):
                assert change.before is None
                assert change.after is not None
                assert change.after.id not in known
                known[change.after.id] = change.after
                created.append(change)
            elif isinstance(change, Rows):
                assert known[change.table.id] == change.table
        assert {id.name for id in known} == {"item", "remark"}
        assert created == [] if self.reads_tables else len(created) == 2
        _, changes = follow(origin, origin.start(), len(HISTORY), list(known.values()))
        assert [change for change in changes if isinstance(change, SchemaChange)] == []

    def test_a_stream_resumes_exactly_after_each_commit(self, origin: Origin) -> None:
        origin.execute(*HISTORY)
        transactions, _ = follow(origin, origin.start(), len(HISTORY))
        for number, transaction in enumerate(transactions[:-1], 1):
            rest, _ = follow(origin, transaction.end, len(HISTORY) - number)
            assert steps(rest) == expected(*HISTORY[number:])
            assert [one.end for one in rest] == [one.end for one in transactions[number:]]

    def test_a_stream_from_the_start_of_a_transaction_shows_it_whole(self, origin: Origin) -> None:
        origin.execute(*HISTORY)
        transactions, _ = follow(origin, origin.start(), len(HISTORY))
        start = str(transactions[2].begin.position)
        rest, _ = follow(origin, start, len(HISTORY) - 2)
        assert steps(rest) == expected(*HISTORY[2:])

    def test_a_large_transaction_is_one_transaction(self, origin: Origin) -> None:
        rows = [(number, f"c{number}", "n" * 50) for number in range(2000)]
        origin.execute(insert("item", *rows), delete("item", *rows[:1]))
        (large, small), _ = follow(origin, origin.start(), 2)
        assert [new for _, _, new in large.steps] == rows
        assert small.steps == [("item", rows[0], None)]

    def test_positions_are_ordered_as_their_transactions_are(self, origin: Origin) -> None:
        origin.execute(*HISTORY)
        transactions, _ = follow(origin, origin.start(), len(HISTORY))
        ends = [transaction.end for transaction in transactions]
        with watched(origin.source()) as source:
            for early, position in enumerate(ends):
                for late, target in enumerate(ends):
                    assert source.reached(position, target) == (early >= late)

    def test_a_position_includes_the_transactions_up_to_it(self, origin: Origin) -> None:
        origin.execute(*HISTORY)
        transactions, _ = follow(origin, origin.start(), len(HISTORY))
        with watched(origin.source()) as source:
            for early, one in enumerate(transactions):
                for late, other in enumerate(transactions):
                    assert source.includes(one.end, other.begin) == (late <= early)

    def test_the_end_of_the_log_is_after_every_commit(self, origin: Origin) -> None:
        origin.execute(*HISTORY)
        transactions, _ = follow(origin, origin.start(), len(HISTORY))
        with watched(origin.source()) as source:
            goal = source.position()
            assert source.reached(goal, transactions[-1].end)
            assert all(source.includes(goal, transaction.begin) for transaction in transactions)

    def test_the_backlog_shrinks(self, origin: Origin) -> None:
        origin.execute(*HISTORY)
        transactions, _ = follow(origin, origin.start(), len(HISTORY))
        with watched(origin.source()) as source:
            first, last = (source.backlog(transactions[n].end) for n in (0, -1))
            source.acknowledge(transactions[-1].end)
            if first is not None and last is not None:
                assert first > last >= 0


class LiveSourceContract(SourceContract):
    """The rules for a source whose log grows."""

    def test_the_end_of_the_log_is_reached(self, origin: Origin) -> None:
        origin.execute(*HISTORY)
        with watched(origin.source()) as source:
            goal = source.position()
            here = ""
            for changes in source.stream(origin.start(), catalog_of(source)):
                for change in changes:
                    if isinstance(change, Commit | Heartbeat):
                        here = str(change.position)
                if here and source.reached(here, goal):
                    break
            assert source.reached(here, goal)

    def test_an_idle_source_shows_heartbeats(self, origin: Origin) -> None:
        origin.execute(*HISTORY[:1])
        with watched(origin.source()) as source:
            goal = source.position()
            beats: list[Heartbeat] = []
            for changes in source.stream(origin.start(), catalog_of(source)):
                beats += [change for change in changes if isinstance(change, Heartbeat)]
                if len(beats) >= 2:
                    break
            assert source.reached(str(beats[-1].position), goal)
            assert abs(beats[-1].at - time.time()) < 60
        origin.execute(*HISTORY[1:])
        rest, _ = follow(origin, str(beats[-1].position), len(HISTORY) - 1)
        assert steps(rest) == expected(*HISTORY[1:])

    def test_transactions_that_are_committed_during_the_stream_arrive(self, origin: Origin) -> None:
        with watched(origin.source()) as source:
            stream = source.stream(origin.start(), catalog_of(source))
            assert next(stream)
            origin.execute(*HISTORY)
            changes: list[Change] = []
            while sum(isinstance(change, Commit) for change in changes) < len(HISTORY):
                changes += next(stream)
        assert steps(framed(changes)) == expected(*HISTORY)

    def test_stop_ends_a_waiting_stream_soon_and_close_allows_another(self, origin: Origin) -> None:
        with watched(origin.source()) as source:
            tables = catalog_of(source)
            idle = threading.Event()

            def read() -> None:
                for _ in source.stream(origin.start(), tables):
                    idle.set()

            thread = threading.Thread(target=read, daemon=True)
            thread.start()
            assert idle.wait(DEADLINE_SECONDS)
            source.stop()
            source.stop()
            thread.join(PROMPT_SECONDS)
            assert not thread.is_alive(), "the stream did not end"
            source.close()
            source.close()
            origin.execute(*HISTORY[:1])
            assert next(source.stream(origin.start(), tables))


class FiniteSourceContract(SourceContract):
    """The rules for a source whose log ends, such as files."""

    def test_a_finite_log_ends(self, origin: Origin) -> None:
        origin.execute(*HISTORY)
        with watched(origin.source()) as source:
            stream = source.stream(origin.start(), catalog_of(source))
            changes = [change for piece in stream for change in piece]
        assert steps(framed(changes)) == expected(*HISTORY)

    def test_a_finite_log_is_read_to_its_position(self, origin: Origin) -> None:
        origin.execute(*HISTORY)
        with watched(origin.source()) as source:
            tables = catalog_of(source)
            ends = [
                change.position
                for piece in source.stream(origin.start(), tables)
                for change in piece
                if isinstance(change, Commit | Heartbeat)
            ]
            assert source.reached(str(ends[-1]), source.position())
            stream = source.stream(str(ends[-1]), tables)
            rest = [change for piece in stream for change in piece]
        assert framed([change for change in rest if not isinstance(change, Heartbeat)]) == []
