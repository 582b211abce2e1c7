"""
The contract of a source whose tables can be read (``engine.contract.SnapshotSource``).
"""

from __future__ import annotations

import time
from typing import ClassVar

import msgspec
import pytest

from engine.change import Row
from engine.contract_suite.origin import (
    PROMPT_SECONDS,
    Origin,
    expected,
    follow,
    insert,
    read_all,
    snapshot_of,
    steps,
    tables_of,
)
from engine.contract_suite.sources import SourceContract
from engine.errors import ShapeChanged
from engine.schema import Part, TableId

__all__ = ["SnapshotSourceContract"]


class SnapshotSourceContract(SourceContract):
    """The rules for the catalog and the chunks, besides those of ``SourceContract``."""

    reads_tables: ClassVar[bool] = True

    def test_the_catalog_lists_the_tables_in_order(self, origin: Origin) -> None:
        with snapshot_of(origin) as source:
            item, remark = source.catalog()
            assert (item.id.name, item.key, item.names) == ("item", (0,), ("id", "code", "note"))
            assert (remark.id.name, remark.key, remark.names) == ("remark", (), ("code", "note"))
            assert item.id < remark.id
            assert source.catalog({item.id}) == [remark]
            assert source.catalog({item.id, remark.id}) == []
            assert all(rows >= 0 for rows in source.estimates([item, remark]).values())

    @pytest.mark.parametrize("readers", [1, 3])
    def test_chunks_show_each_row_once_in_key_order(self, origin: Origin, readers: int) -> None:
        rows = [(number * 3, f"c{number}", None) for number in range(50)]
        origin.execute(insert("item", *reversed(rows)))
        with snapshot_of(origin) as source:
            item, low_watermark = tables_of(source)["item"], source.position()
            chunks = read_all(source.chunks(item, None, low_watermark, rows=7, readers=readers))
            assert [row for chunk in chunks for row in chunk.rows] == rows
            assert len(chunks) > 3
            assert all(source.reached(str(chunk.high_watermark), low_watermark) for chunk in chunks)
            assert all(chunk.table == item for chunk in chunks)

    def test_chunks_resume_after_each_cursor(self, origin: Origin) -> None:
        rows = [(number, None, None) for number in range(-10, 10)]
        origin.execute(insert("item", *rows))
        with snapshot_of(origin) as source:
            item, low_watermark = tables_of(source)["item"], source.position()
            first = read_all(source.chunks(item, None, low_watermark, rows=6, readers=1))
            done = 0
            for chunk in first[:-1]:
                done += len(chunk.rows)
                rest = read_all(source.chunks(item, chunk.cursor, low_watermark, rows=6, readers=2))
                assert [row for chunk in rest for row in chunk.rows] == rows[done:]

    def test_chunks_of_columns_have_these_and_the_key(self, origin: Origin) -> None:
        rows = [(number, f"c{number}", f"n{number}") for number in range(30)]
        origin.execute(insert("item", *rows))
        with snapshot_of(origin) as source:
            item, low_watermark = tables_of(source)["item"], source.position()
            read = source.chunks(item, None, low_watermark, rows=4, readers=2, columns=["note"])
            chunks = read_all(read)
            assert {chunk.table for chunk in chunks} == {item.narrowed(["note"])}
            shown = [(number, note) for number, _, note in rows]
            assert [row for chunk in chunks for row in chunk.rows] == shown
            again = source.chunks(
                item, chunks[0].cursor, low_watermark, rows=50, readers=1, columns=["note"]
            )
            assert [row for chunk in read_all(again) for row in chunk.rows] == shown[4:]

    def test_chunks_of_a_part_have_its_rows_alone(self, origin: Origin) -> None:
        rows = [(number, None, None) for number in range(30)]
        origin.execute(insert("item", *rows))
        part = Part("id", ((None, 3), (10, 20), (25, None)))
        with snapshot_of(origin) as source:
            item, low_watermark = tables_of(source)["item"], source.position()
            chunks = read_all(
                source.chunks(item, None, low_watermark, rows=4, readers=2, part=part)
            )
            assert [row for chunk in chunks for row in chunk.rows] == [
                row for row in rows if part.has(row[0])
            ]
            second = source.chunks(
                item, chunks[0].cursor, low_watermark, rows=50, readers=1, part=part
            )
            left = [row for chunk in chunks[1:] for row in chunk.rows]
            assert [row for chunk in second for row in chunk.rows] == left

    def test_an_empty_table_gives_one_empty_chunk(self, origin: Origin) -> None:
        with snapshot_of(origin) as source:
            for table in source.catalog():
                (chunk,) = source.chunks(table, None, source.position(), rows=10, readers=2)
                assert (chunk.rows, chunk.cursor) == ([], None)

    def test_empty_tables_are_told_from_others(self, origin: Origin) -> None:
        with snapshot_of(origin) as source:
            item, low_watermark = tables_of(source)["item"], source.position()
            missing = msgspec.structs.replace(item, id=TableId(item.id.schema, "missing"))
            assert source.empty([missing], low_watermark) == []
            (chunk,) = source.empty([item], low_watermark)
            assert (chunk.table, chunk.rows, chunk.cursor) == (item, [], None)
            assert source.reached(str(chunk.high_watermark), low_watermark)
            origin.execute(insert("item", (1, "a", None)))
            assert source.empty([item], source.position()) == []
        late, _ = follow(origin, str(chunk.high_watermark), 1)
        assert steps(late) == expected(insert("item", (1, "a", None)))

    def test_a_keyless_table_is_read_at_one_position(self, origin: Origin) -> None:
        rows: list[Row] = [("x", str(number % 5)) for number in range(40)]
        origin.execute(insert("remark", *rows))
        with snapshot_of(origin) as source:
            remark, low_watermark = tables_of(source)["remark"], source.position()
            watermarks: list[str] = []
            found: list[Row] = []
            for chunk in source.chunks(remark, None, low_watermark, rows=15, readers=2):
                watermarks.append(str(chunk.high_watermark))
                found += chunk.rows
                origin.execute(insert("remark", ("late", None)))
            assert sorted(found) == sorted(rows)
            assert len(set(watermarks)) == 1
        late, _ = follow(origin, watermarks[0], len(watermarks))
        assert steps(late) == expected(*[insert("remark", ("late", None))] * len(watermarks))

    def test_a_chunk_shows_every_transaction_that_was_committed_before_its_read(
        self, origin: Origin
    ) -> None:
        with snapshot_of(origin) as source:
            item = tables_of(source)["item"]
            for number in range(10):
                origin.execute(insert("item", (number, None, None)))
                low_watermark = source.position()
                (chunk,) = source.chunks(item, None, low_watermark, rows=100, readers=1)
                assert len(chunk.rows) == number + 1
                assert source.reached(str(chunk.high_watermark), low_watermark)

    def test_another_shape_is_refused(self, origin: Origin) -> None:
        origin.execute(insert("item", (1, None, None)))
        with snapshot_of(origin) as source:
            item = tables_of(source)["item"]
            other = msgspec.structs.replace(item, columns=(*item.columns[:2], item.columns[1]))
            with pytest.raises(ShapeChanged):
                list(source.chunks(other, None, source.position(), rows=10, readers=1))

    def test_chunks_may_be_closed_and_stopped(self, origin: Origin) -> None:
        origin.execute(insert("item", *[(number, None, None) for number in range(30)]))
        with snapshot_of(origin) as source:
            item, low_watermark = tables_of(source)["item"], source.position()
            closed = source.chunks(item, None, low_watermark, rows=5, readers=2)
            next(closed)
            closed.close()
            stopped = source.chunks(item, None, low_watermark, rows=5, readers=2)
            next(stopped)
            source.stop()
            started = time.monotonic()
            assert len(list(stopped)) < 6
            assert time.monotonic() - started < PROMPT_SECONDS
            source.close()
            chunks = read_all(source.chunks(item, None, low_watermark, rows=5, readers=2))
            assert len(chunks) >= 6
