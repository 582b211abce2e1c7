"""
The tables that a comparison is about.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import NamedTuple

from engine.checkpoint import TableProgress
from engine.cli.stored import refuse_unknown
from engine.contract import State
from engine.mapping.changes import Mapping as TableMappings
from engine.mapping.reader import compared, shares_of, with_sources
from engine.pipeline.twins import current_tables
from engine.schema import Table, TableId
from engine.toolkit.sampling import SampleSize

__all__ = ["Chosen", "choose"]


class Chosen(NamedTuple):
    """The tables to compare.

    ``tables`` are those by which both sides are compared, each with those of the source; ``names``
    has the names to show, by the name of a table of the target. ``left`` has the tables whose rows
    on the target are known to be old, each with the reason. ``others`` has the shares of merged
    tables that are not compared: their tables are not followed, are known to be old, or were not
    asked for.
    """

    tables: Mapping[Table, Sequence[Table]]
    names: Mapping[str, str]
    left: Mapping[str, str]
    others: Mapping[Table, Collection[str]]

    def expected(
        self, estimates: Mapping[TableId, int], sample: SampleSize | None
    ) -> dict[str, int]:
        """About how many rows of each table are compared, by the names to show, as the rows of the
        source's tables are estimated."""
        found = {}
        for target, of in self.tables.items():
            rows = sum(estimates.get(it.id, 0) for it in of)
            share = sample.share_of(rows) if sample is not None and target.key else 1.0
            found[self.names[str(target.id)]] = round(min(share, 1.0) * rows)
        return found


def choose(
    state: State,
    progress: Mapping[TableId, TableProgress],
    mapping: TableMappings,
    names: Sequence[str],
) -> Chosen:
    """The tables of these names on the source, all if there are none."""
    names = tuple(dict.fromkeys(names))
    left = {
        str(id): it.reason
        for id, it in progress.items()
        if it.state != "excluded" and (it.again or it.reason)
    }
    left |= {str(id): reason for id, reason in state.outdated.items()}
    current = [it for it in current_tables(state.tables, progress) if it.id not in state.outdated]
    known = {str(table.id): table for table in current}
    if names:
        unknown = [name for name in names if name not in known and name not in left]
        refuse_unknown(unknown, progress)
        left = {name: left[name] for name in names if name in left}
    tables = [known[name] for name in names if name in known] if names else current
    by_target: dict[Table, Sequence[Table]] = {}
    others: dict[Table, Collection[str]] = {}
    for target, of in compared(mapping, tables).items():
        own = with_sources(target, {it.id for it in of})
        by_target[own] = of
        if shares := shares_of(own):
            others[own] = shares_of(target) - shares
    shown = {str(it.id): " + ".join(str(source.id) for source in it.sources) for it in by_target}
    return Chosen(by_target, shown, left, others)
