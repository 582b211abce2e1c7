"""The readers of a comparison end a read by the size of its rows."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from tests.support.sides import Sides


@pytest.mark.parametrize("name", ["range_rows", "chunk", "by_keys"])
def test_fewer_wide_rows_are_read_at_once(
    sides: Sides, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setattr("engine.toolkit.row_limit.MOST_READ_BYTES", 50_000)
    table = sides.make("t", "id INT PRIMARY KEY, w TEXT")
    rows = ", ".join(f"({id}, REPEAT('x', 1000))" for id in range(1000))
    for run in (sides.on_source, sides.on_target):
        run(f"INSERT INTO t VALUES {rows}")
    sides.on_target("UPDATE t SET w = REPEAT('y', 1000) WHERE id < 300")
    sizes: list[int] = []
    read = getattr(sides.source_reader, name)

    def counted(*args: Any, **options: Any) -> Any:
        rows = read(*args, **options)
        if not options.get("keys_only"):
            sizes.append(len(rows[0] if name == "range_rows" else rows))
        return rows

    monkeypatch.setattr(sides.source_reader, name, counted)
    report = sides.compare(table, by_rows=name == "chunk", chunk_rows=600)
    assert (report.differing, report.rows) == (300, 1000)
    assert sum(sizes) >= 300
    # The size of the rows is not known when the first ones are read.
    assert sizes[0] <= 10
    assert max(sizes[len(sizes) // 2 :]) <= 50, sizes


@pytest.mark.parametrize("by_rows", [False, True])
def test_wide_rows_behind_narrow_ones_are_read_in_pieces(
    sides: Sides, monkeypatch: pytest.MonkeyPatch, *, by_rows: bool
) -> None:
    """GIVEN rows that are wider than all before them, of which one side has more WHEN all are read
    THEN each read ends by their size, and each difference is found once.
    """
    monkeypatch.setattr("engine.toolkit.row_limit.MOST_READ_BYTES", 50_000)
    table = sides.make("t", "id INT PRIMARY KEY, w TEXT, d DATE")
    for run in (sides.on_source, sides.on_target):
        run("INSERT INTO t VALUES " + ", ".join(f"({n}, 'x', NULL)" for n in range(600)))
    wide = [f"({n}, REPEAT('x', 1000), NULL)" for n in range(1000, 1600)]
    sides.on_source(f"INSERT INTO t VALUES {', '.join(wide[:400])}")
    sides.on_target(f"INSERT INTO t VALUES {', '.join(wide[200:])}")
    sides.on_source("UPDATE t SET d = '0000-00-00' WHERE id >= 100")
    sides.on_target("UPDATE t SET w = 'y' WHERE id < 100 OR id % 10 = 7")
    sizes: list[int] = []
    for reader in (sides.source_reader, sides.target_reader):
        for name in ("range_rows", "chunk"):
            monkeypatch.setattr(reader, name, counted(getattr(reader, name), sizes))
    report = sides.compare(table, by_rows=by_rows, chunk_rows=500)
    assert (report.missing, report.extra, report.differing) == (200, 200, 170)
    assert {it.column: it.values for it in report.replaced}["d"] == 900
    assert 50_000 < max(sizes) < 60_000


def counted(read: Callable[..., Any], sizes: list[int]) -> Callable[..., Any]:
    """A read that tells the size of its rows."""

    def reading(*args: Any, **options: Any) -> Any:
        answer = read(*args, **options)
        rows = answer[0] if isinstance(answer, tuple) else answer
        sizes.append(sum(len(text) for row in rows for text in row if text))
        return answer

    return reading


def test_a_scan_fetches_fewer_wide_rows_at_once(
    sides: Sides, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("engine.toolkit.row_limit.MOST_READ_BYTES", 50_000)
    table = sides.make("t", "id INT, w TEXT")
    rows = ", ".join(f"({id}, REPEAT('x', 1000))" for id in range(300))
    for run in (sides.on_source, sides.on_target):
        run(f"INSERT INTO t VALUES {rows}")
    for reader in (sides.source_reader, sides.target_reader):
        assert [len(each) for each in reader.scan(table)] == 6 * [50]
