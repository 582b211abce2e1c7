"""
The rows of large events are those that the generated Python reads, and take the place of the event.
"""

from __future__ import annotations

import random

import pytest

from engine.databases.mysql.types import neutral_type
from engine.schema import Column, Table, TableId
from sources.mysql.codec.rows import RowDecoder
from sources.mysql.codec.table_map import TableMap, Wire
from tests.mysql.test_accelerator import ROUNDS, Drawn, damaged, large_event


@pytest.mark.parametrize("seed", range(4))
def test_large_events_are_decoded_the_same(seed: int) -> None:
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
