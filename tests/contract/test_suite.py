"""
The contract suite itself: it finds sinks and sources that break a rule, and asks a sink only for
what it declares.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from pathlib import Path
from typing import ClassVar

import msgspec
import pytest

from engine.change import Begin, Change, Row, Rows
from engine.checkpoint import Checkpoint
from engine.contract import Applied, Capabilities, Sink, Source
from engine.contract_suite.origin import Origin
from engine.contract_suite.sinks import SinkContract
from engine.contract_suite.sources import LiveSourceContract
from engine.contract_suite.target import PIPELINE, Target
from engine.errors import TailraceError
from engine.schema import Table, TableId
from sinks.memory import MemorySink, MemorySinkSettings, MemoryStore
from sources.memory import MemorySettings, MemorySource
from tests.contract.test_sources import MemoryOrigin

ROOT = Path(__file__).parents[2]


class TargetOf(Target):
    """A target in memory for a subclass of the memory sink."""

    def __init__(self, sink: type[MemorySink]) -> None:
        self.make = sink
        self.store = MemoryStore()

    def sink(self) -> Sink:
        return self.make(MemorySinkSettings("memory:contract"), PIPELINE, self.store)

    def rows(self, table: Table) -> list[Row]:
        return self.store.rows(table.id)


class WithoutFencing(MemorySink):
    async def commit(self, checkpoint: Checkpoint) -> None:
        newest = self.store.states[PIPELINE].epoch
        self._epoch = newest
        await super().commit(msgspec.structs.replace(checkpoint, epoch=newest))


class WithoutRollback(MemorySink):
    async def rollback(self) -> None:
        pass


class WithoutProgress(MemorySink):
    async def commit(self, checkpoint: Checkpoint) -> None:
        await super().commit(msgspec.structs.replace(checkpoint, progress={}))


class WithoutMasks(MemorySink):
    async def apply(
        self, changes: Sequence[Change], in_backfill: Collection[TableId] = ()
    ) -> Applied:
        whole = [
            msgspec.structs.replace(change, before_present=None, after_present=None)
            if isinstance(change, Rows)
            else change
            for change in changes
        ]
        return await super().apply(whole, in_backfill)


class WithDriftInBackfill(MemorySink):
    async def apply(
        self, changes: Sequence[Change], in_backfill: Collection[TableId] = ()
    ) -> Applied:
        return await super().apply(changes)


class CommitsEarly(MemorySink):
    """Rows are visible when they are applied, and stay."""

    async def apply(
        self, changes: Sequence[Change], in_backfill: Collection[TableId] = ()
    ) -> Applied:
        applied = await super().apply(changes, in_backfill)
        self.store.contents = self._transaction()
        self._open = None
        return applied


class AtLeastOnce(CommitsEarly):
    """The same sink, which says so."""

    capabilities: ClassVar[Capabilities] = Capabilities(
        guarantee="at least once", transactional=False, upsert=False, schema_changes=False
    )


def outcomes(contract: object, place: Callable[[], Target | Origin]) -> dict[str, str]:
    """What each test of a class without parameters does: passed, failed or skipped."""
    found = {}
    for name in dir(contract):
        if not name.startswith("test_"):
            continue
        try:
            getattr(contract, name)(place())
            found[name] = "passed"
        except pytest.skip.Exception:
            found[name] = "skipped"
        except (AssertionError, KeyError, TailraceError, pytest.fail.Exception):
            found[name] = "failed"
    return found


def failed(found: dict[str, str]) -> set[str]:
    return {name for name, outcome in found.items() if outcome == "failed"}


@pytest.mark.parametrize(
    ("sink", "test"),
    [
        (WithoutFencing, "test_an_older_engine_is_fenced_and_changes_nothing"),
        (WithoutFencing, "test_a_commit_that_comes_after_a_takeover_is_fenced"),
        (WithoutRollback, "test_rollback_undoes_rows_and_schema_changes"),
        (WithoutProgress, "test_the_checkpoint_comes_back_as_it_was_stored"),
        (WithoutMasks, "test_absent_columns_keep_their_values"),
        (WithoutMasks, "test_a_partial_image_never_inserts"),
        (WithDriftInBackfill, "test_changes_that_a_chunk_already_shows_are_no_drift"),
        (CommitsEarly, "test_uncommitted_changes_are_lost"),
        (CommitsEarly, "test_a_commit_that_never_arrived_is_repeated"),
    ],
)
def test_a_sink_that_breaks_a_rule_fails(sink: type[MemorySink], test: str) -> None:
    found = failed(outcomes(SinkContract(), lambda: TargetOf(sink)))
    assert test in found
    assert len(found) < 10  # a rule is broken, not everything


def test_a_sink_is_asked_only_for_what_it_declares() -> None:
    found = outcomes(SinkContract(), lambda: TargetOf(AtLeastOnce))
    assert failed(found) == set()
    skipped = {name for name, outcome in found.items() if outcome == "skipped"}
    # 2 of transactions, 8 of backfill, 7 of changes, 3 of parts, 1 of columns, 4 of cutovers, 1 of
    # comparisons
    assert len(skipped) == 26


class OriginOf(MemoryOrigin):
    """An origin in memory for a subclass of the memory source."""

    def __init__(self, source: type[MemorySource]) -> None:
        super().__init__()
        self.make = source

    def source(self) -> Source:
        return self.make(MemorySettings("memory:contract", 0.05, 3), self.database)


class RepeatsATransaction(MemorySource):
    def stream(
        self,
        position: str | None,
        tables: Iterable[Table],
        discovered: Iterable[Table] = (),
        ignored: Collection[TableId] = (),
    ) -> Iterator[list[Change]]:
        return super().stream(str(max(0, int(position or 0) - 1)), tables, discovered, ignored)


class IncludesEverything(MemorySource):
    def includes(self, position: str, begin: Begin) -> bool:
        return True


@pytest.mark.parametrize(
    ("source", "test"),
    [
        (RepeatsATransaction, "test_a_stream_resumes_exactly_after_each_commit"),
        (IncludesEverything, "test_a_position_includes_the_transactions_up_to_it"),
    ],
)
def test_a_source_that_breaks_a_rule_fails(source: type[MemorySource], test: str) -> None:
    class Contract(LiveSourceContract):
        reads_tables = True

    found = failed(outcomes(Contract(), lambda: OriginOf(source)))
    assert test in found
    assert len(found) < 6


def test_a_class_without_the_rules_of_its_source_fails() -> None:
    found = failed(outcomes(LiveSourceContract(), MemoryOrigin))
    assert "test_the_test_class_fits_the_source" in found


def test_nothing_else_imports_the_suite_or_pytest() -> None:
    code = (
        "import sys, engine.cli.main as main; main.make_parser();"
        "assert 'pytest' not in sys.modules and 'engine.contract_suite' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT, timeout=60)
    users = {
        path.relative_to(ROOT).parts[:2]
        for package in ("engine", "sources", "sinks", "benchmarks")
        for path in (ROOT / package).rglob("*.py")
        if "engine.contract_suite" in path.read_text(encoding="utf-8")
    }
    assert users <= {("engine", "contract_suite"), ("engine", "contract.py")}
