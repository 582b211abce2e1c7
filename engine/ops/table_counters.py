"""
Counters by table, with a bounded number of series.

Only the busiest tables have series of their own. All others are summed in one. A counter of
Prometheus must never fall: a table that gets a series, or loses it, takes no count along. What was
counted while it had none stays in the sum. So every series only grows, and the sum of all rates is
the rate of all tables.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from heapq import nlargest

from engine.ops.metric_list import OTHER
from engine.proof import TableProof
from engine.schema import TableId

__all__ = ["MOST_TABLES", "TableCounters"]

#: The number of tables with series of their own.
MOST_TABLES = 100
#: How often the busiest tables are chosen again.
RANK_SECONDS = 60.0

#: The name of a metric, and the values of its labels after ``table``.
Key = tuple[str, ...]


class _Counted:
    """The counts of one table."""

    __slots__ = ("named", "own", "score", "table", "totals")

    def __init__(self, table: str, *, named: bool) -> None:
        self.table = table
        #: Whether the table has series of its own, and what was counted in them.
        self.named = named
        self.own: dict[Key, int] = {}
        #: What was counted, whether in series of its own or not.
        self.totals: dict[Key, int] = {}
        #: How busy the table was lately.
        self.score = 0.0


class TableCounters:
    """Counts by table. ``clock`` is in seconds."""

    def __init__(
        self, most: int = MOST_TABLES, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._most = most
        self._clock = clock
        self._tables: dict[TableId, _Counted] = {}
        self._others: dict[Key, int] = {}
        self._ranked_at = clock()
        #: When the source committed the last change of each table, in Unix seconds.
        self._changed_at: dict[TableId, float] = {}
        #: The last comparison of each table that was compared.
        self._proofs: Mapping[TableId, TableProof] = {}
        #: The tables of which something was noted since ``take_changed``.
        self._changed: set[TableId] = set()

    def add(self, id: TableId, key: Key, count: int, *, summed: Key | None = None) -> None:
        """Count for a table. The first value of ``key`` is the metric's name. ``summed`` is the key
        in the sum of the other tables, if it differs.
        """
        table = self._tables.get(id)
        if table is None:
            table = _Counted(str(id), named=len(self._tables) < self._most)
            self._tables[id] = table
        if table.named:
            table.own[key] = table.own.get(key, 0) + count
        else:
            shared = summed or key
            self._others[shared] = self._others.get(shared, 0) + count
        table.totals[key] = table.totals.get(key, 0) + count
        table.score += count
        self._changed.add(id)

    def changed(self, times: Mapping[TableId, float]) -> None:
        """Note when the source committed the last changes of tables."""
        self._changed_at.update(times)
        self._changed.update(times)

    def changed_at(self, id: TableId) -> float:
        """When the source committed the last change of a table; 0.0 if none was noted."""
        return self._changed_at.get(id, 0.0)

    def proven(self, proofs: Mapping[TableId, TableProof]) -> None:
        """Note the last comparisons of all tables."""
        before, self._proofs = self._proofs, proofs
        self._changed |= {id for id in (*before, *proofs) if before.get(id) != proofs.get(id)}

    def proof(self, id: TableId) -> TableProof | None:
        """The last comparison of a table; None if none is known."""
        return self._proofs.get(id)

    def totals(self, id: TableId) -> Mapping[Key, int]:
        """What was counted for a table, by key."""
        table = self._tables.get(id)
        return {} if table is None else table.totals

    def take_changed(self) -> set[TableId]:
        """The tables that were counted since the last call."""
        changed, self._changed = self._changed, set()
        return changed

    def samples(self) -> list[tuple[str, tuple[str, ...], int]]:
        """The name, the labels' values and the value of each series.

        When the busiest tables change, the last values of the old series and the first ones of the
        new series are there together, so no rate misses a count.
        """
        named = [table for table in self._tables.values() if table.named]
        named += self._rank()
        found = [
            (name, (table.table, *labels), count)
            for table in named
            for (name, *labels), count in table.own.items()
        ]
        found += [
            (name, (OTHER, *labels), count) for (name, *labels), count in self._others.items()
        ]
        return found

    def _rank(self) -> list[_Counted]:
        """Choose the busiest tables, now and then. A table that has series keeps them until another
        one is twice as busy. Returns the tables that get series.
        """
        now = self._clock()
        if len(self._tables) <= self._most or now - self._ranked_at < RANK_SECONDS:
            return []
        self._ranked_at = now
        busiest = nlargest(
            self._most,
            self._tables.values(),
            key=lambda table: table.score * 2 if table.named else table.score,
        )
        new = [table for table in busiest if not table.named]
        for table in self._tables.values():
            table.score /= 2
            table.named = False
        for table in busiest:
            table.named = True
        for table in new:
            table.own = {key: table.own.get(key, 0) for key in table.totals}
        return new
