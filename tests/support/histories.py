"""
Random histories of one table that a real database could have produced.

A `History` applies random steps to a plain dict and leaves out those that a database would refuse.
So every logged change is valid, and a target must end with the rows of the dict.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from hypothesis import strategies as st

from engine.change import Operation, Row, Rows
from engine.schema import Column, Index, Table, TableId, Type

KEYS = st.integers(0, 9)
UNIQUES = st.none() | st.integers(0, 9)
TEXTS = st.sampled_from(["", "a", "b\tc", "\\N", "d\ne"])


def number(name: str, *, nullable: bool = False) -> Column:
    return Column(name, Type("int32"), "int", nullable)


def text(name: str, *, nullable: bool = True) -> Column:
    return Column(name, Type("text", length=20), "varchar(20)", nullable)


#: A key, a unique column, and two other columns.
KEYED = Table(
    TableId("shop", "things"),
    (number("id"), number("code", nullable=True), text("a"), text("b")),
    key=(0,),
    indexes=(Index("code", (1,), unique=True),),
)
KEYLESS = Table(TableId("shop", "ledger"), (number("n", nullable=True), text("a")))

#: An operation, the key, another key (of a key change), the unique value, and two texts.
step = st.one_of(
    st.tuples(st.just("insert"), KEYS, KEYS, UNIQUES, TEXTS, TEXTS),
    st.tuples(st.just("update"), KEYS, KEYS, UNIQUES, TEXTS, TEXTS),
    st.tuples(st.just("change"), KEYS, KEYS, UNIQUES, TEXTS, TEXTS),
    st.tuples(st.just("rekey"), KEYS, KEYS, UNIQUES, TEXTS, TEXTS),
    st.tuples(st.just("delete"), KEYS, KEYS, UNIQUES, TEXTS, TEXTS),
)
steps = st.lists(step, max_size=40)


@dataclass
class History:
    """Plays steps, and logs those that a database would accept."""

    rows: dict[int, Row] = field(default_factory=dict)
    log: list[Rows] = field(default_factory=list)
    #: The state after each logged change.
    states: list[dict[int, Row]] = field(default_factory=list)
    minimal: bool = False

    def play(self, steps: list[tuple[str, int, int, int | None, str, str]]) -> None:
        for kind, key, other, code, a, b in steps:
            old = self.rows.get(key)
            if kind == "insert" and old is None:
                self._write("insert", None, (key, code, a, b))
            elif old is None:
                continue
            elif kind == "delete":
                self._write("delete", old, None)
            elif kind == "update":
                self._write("update", old, (key, old[1], a, b))
            elif kind == "change":
                self._write("update", old, (key, code, a, old[3]))
            elif kind == "rekey":
                self._write("update", old, (other, old[1], old[2], b))

    def _write(self, op: Operation, old: Row | None, new: Row | None) -> None:
        others = {key: row for key, row in self.rows.items() if row is not old}
        if new is not None:
            codes = {row[1] for row in others.values()} - {None}
            if new[0] in others or new[1] in codes:
                return
            others[new[0]] = new
        self.rows = others
        self.states.append(dict(others))
        before = None if old is None else [old]
        after = None if new is None else [new]
        if self.minimal and old is not None:
            self.log.append(_minimal(op, old, new))
        else:
            self.log.append(Rows(KEYED, op, before, after))


def _minimal(op: Operation, old: Row, new: Row | None) -> Rows:
    key_alone = [(old[0], None, None, None)]
    if new is None:
        return Rows(KEYED, op, key_alone, None, before_present=1)
    mask = sum(1 << n for n in range(4) if n == 0 or old[n] != new[n])
    after = tuple(value if mask >> n & 1 else None for n, value in enumerate(new))
    return Rows(KEYED, op, key_alone, [after], before_present=1, after_present=mask)
