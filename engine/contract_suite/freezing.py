"""
The contract of a source whose writes can be stopped (``engine.handover.Freezable``).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing, contextmanager

from engine.contract_suite.origin import Origin, insert, snapshot_of, tables_of
from engine.contract_suite.sources import SourceContract
from engine.handover import Freezable, Freezer, Since

__all__ = ["FreezableContract"]

SECONDS = 20.0


@contextmanager
def frozen_at_most(source: Freezable) -> Iterator[Freezer]:
    """A freezer, after which the source takes writes as before."""
    with closing(source.freezer()) as freezer:
        before = freezer.before()
        try:
            yield freezer
        finally:
            freezer.thaw(before)


class FreezableContract(SourceContract):
    """The rules for a freezer, besides those of ``SourceContract``."""

    def test_a_freeze_and_its_end_may_be_repeated(self, origin: Origin) -> None:
        with snapshot_of(origin) as source:
            assert isinstance(source, Freezable)
            with frozen_at_most(source) as freezer:
                before = freezer.before()
                assert freezer.why_not() == ""
                assert not freezer.is_frozen()
                freezer.freeze(SECONDS)
                freezer.freeze(SECONDS)
                assert freezer.is_frozen()
                assert source.position() == source.position()
                with closing(source.freezer()) as other:
                    assert other.is_frozen()
                    assert other.before() != before
                    other.thaw(before)
                    other.thaw(before)
                assert not freezer.is_frozen()
                assert freezer.before() == before
                freezer.close()
                freezer.close()
            origin.execute(insert("item", (1, "a", None)))

    def test_a_table_that_the_log_has_changed_is_named(self, origin: Origin) -> None:
        with snapshot_of(origin) as source:
            tables = tables_of(source)
            item, remark = tables["item"], tables["remark"]
            start = Since(source.position())
            assert isinstance(source, Freezable)
            with frozen_at_most(source) as freezer:
                assert freezer.changed({}, SECONDS).tables == frozenset()
                origin.execute(insert("item", (1, "a", None)))
                between = Since(source.position())
                assert item.id in freezer.changed({item: start, remark: start}, SECONDS).tables
                origin.execute(insert("remark", ("b", None)))
                found = freezer.changed({item: between, remark: between}, SECONDS)
                assert remark.id in found.tables
                assert item.id not in found.tables
