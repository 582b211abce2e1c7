"""
The rows of large events are those that the generated Python reads, and take the place of the event.
"""

from __future__ import annotations

import random
from typing import Any

import pytest

from engine.change import Operation
from engine.databases.mysql.types import neutral_type
from engine.schema import Column, Table, TableId
from sources.mysql.codec import large_rows
from sources.mysql.codec.large_event import LargeEvent
from sources.mysql.codec.large_rows import LargeRows
from sources.mysql.codec.rows import RowDecoder
from sources.mysql.codec.table_map import TableMap, Wire
from tests.mysql.test_accelerator import ROUNDS, Drawn, damaged, large_event


@pytest.mark.parametrize("row_bytes", [0, 60], ids=["large rows", "both"])
@pytest.mark.parametrize("seed", range(2))
def test_large_events_are_decoded_the_same(
    seed: int, row_bytes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Events whose first row has ``row_bytes`` have large rows."""
    monkeypatch.setattr(large_rows, "LARGE_ROW_BYTES", row_bytes)
    chance = random.Random(200 + seed)
    refused = 0
    for _ in range(ROUNDS):
        drawn = Drawn(chance)
        images = drawn.images if chance.random() < 0.5 else damaged(chance, drawn.images)
        python = drawn.plain(images)
        large = drawn.large(images)
        # The errors may differ, because the ends of all values are found first.
        assert large == python or (_is_refusal(large) and _is_refusal(python))
        refused += _is_refusal(large)
    assert ROUNDS // 8 < refused < ROUNDS * 7 // 8


def _is_refusal(text: str) -> bool:
    return "malformed" in text or "that are not valid" in text


def test_a_large_value_that_an_update_keeps_is_one_object() -> None:
    """Two columns of 2 MiB in two rows: each value is compared with that of its own row."""
    types = ("longblob", "longtext character set utf8mb4")
    columns = tuple(Column(f"c{n}", neutral_type(it), it) for n, it in enumerate(types))
    table = Table(TableId("s", "t"), columns, ())
    map = TableMap(1, "s", "t", (Wire.BLOB, Wire.BLOB), (4, 4), 0)

    def image(*values: bytes) -> bytes:
        return b"\0" + b"".join(len(each).to_bytes(4, "little") + each for each in values)

    size = 2 << 20
    data = b"\2\3\3" + b"".join(
        (
            *(image(b"a" * size, b"b" * size), image(b"a" * size, b"c" * size)),
            *(image(b"c" * size, b"b" * size), image(b"b" * size, b"b" * size)),
        )
    )
    decoder = RowDecoder(table, map)
    event = large_event(data)
    found = decoder.decode("update", event, 0, len(data))
    assert decoder.decode("update", data, 0, len(data)) == found
    with pytest.raises(AssertionError, match="twice"):
        decoder.decode("update", event, 0, len(data))
    shared = [
        [old is new for old, new in zip(*rows, strict=True)]
        for rows in zip(found.before or (), found.after or (), strict=True)
    ]
    assert shared == [[True, False], [False, True]]


@pytest.mark.parametrize(
    ("op", "sizes", "by_value"),
    [
        ("insert", [100] * 50, False),
        ("insert", [2 << 20], True),
        ("insert", [2 << 20, 100], True),
        ("insert", [100, 2 << 20], False),
        ("update", [100, 2 << 20], True),
        ("insert", [], False),
    ],
)
def test_only_large_rows_are_read_value_by_value(
    op: Operation, sizes: list[int], by_value: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Many small rows in an event are decoded as fast as in small events."""
    columns = (Column("c", neutral_type("longblob"), "longblob"),)
    decoder = RowDecoder(
        Table(TableId("s", "t"), columns, ()), TableMap(1, "s", "t", (Wire.BLOB,), (4,), 0)
    )
    slow = list[LargeRows]()
    decode = LargeRows.decode

    def noted(self: LargeRows, event: LargeEvent, at: int, end: int) -> Any:
        slow.append(self)
        return decode(self, event, at, end)

    monkeypatch.setattr(LargeRows, "decode", noted)
    images = (b"\0" + size.to_bytes(4, "little") + bytes(size) for size in sizes)
    data = (b"\1\1\1" if op == "update" else b"\1\1") + b"".join(images)
    event = large_event(data + b"sums")
    found = decoder.decode(op, event, 0, len(data))
    assert found == decoder.decode(op, data, 0, len(data))
    assert bool(slow) == by_value
    assert event.spent
