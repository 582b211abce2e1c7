"""The progress of a comparison on a terminal."""

from __future__ import annotations

import asyncio
import io
import sys

import msgspec
import pytest

from engine.cli.chosen import Chosen
from engine.cli.progress import ComparedRows, comparison_progress
from engine.schema import Table, TableId
from engine.toolkit.sampling import SampleSize
from engine.verify.comparison import verify
from tests.engine.test_comparison_retries import KEYED, Side, rows
from tests.support.passing import at_once


def test_a_table_of_which_no_row_is_compared_yet_has_no_time_left() -> None:
    compared = ComparedRows({"a": 100, "b": 50})
    compared.update("a", 0)
    assert (compared.done, compared.total) == (0, None)
    compared.update("a", 30)
    assert (compared.done, compared.total) == (30, 150)
    compared.update("b", 0)
    assert (compared.done, compared.total) == (30, None)


def test_what_was_expected_of_a_finished_table_does_not_count() -> None:
    """And the bar does not end before the tables do."""
    compared = ComparedRows({"a": 100, "b": 50, "c": 7})
    compared.update("a", 130)
    assert compared.total == 130 + 1 + 50 + 7
    compared.update("b", 20)
    assert compared.total == 130 + 50 + 7
    compared.update("b", 5)  # begun again, by rows
    assert (compared.done, compared.total) == (135, 130 + 50 + 7)
    compared.update("c", 7)
    assert (compared.done, compared.total) == (142, 143)


def test_a_merged_table_is_expected_to_have_the_rows_of_all_its_tables() -> None:
    one, other, alone = (Table(TableId("shop", name), KEYED.columns, (0,)) for name in "abc")
    merged = msgspec.structs.replace(one, id=TableId("all", "items"))
    names = {"all.items": "shop.a + shop.b", "shop.c": "shop.c"}
    chosen = Chosen({merged: [one, other], alone: [alone]}, names, {}, {})
    estimates = {one.id: 300, other.id: 100}
    assert chosen.expected(estimates, None) == {"shop.a + shop.b": 400, "shop.c": 0}
    assert chosen.expected(estimates, SampleSize(share=0.1))["shop.a + shop.b"] == 40


class Terminal(io.StringIO):
    """A terminal."""

    def isatty(self) -> bool:
        return True


def test_the_terminal_shows_the_table_of_now(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", terminal := Terminal())
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "120")
    with comparison_progress({"shop.a + shop.b": 4000}) as update:
        update("shop.a + shop.b", 0)
        update("shop.a + shop.b", 1000)
    assert "shop.a + shop.b 1,000 rows for 0:00:00 left " in terminal.getvalue()


def test_a_comparison_names_its_table_before_the_first_row() -> None:
    seen: list[tuple[str, int]] = []
    side = Side({"a": rows(1, 2, 3)})
    comparison = verify(
        [KEYED],
        *(side, side),
        source_position=lambda: "here",
        passed=at_once,
        progress=lambda table, count: seen.append((table, count)),
    )
    asyncio.run(comparison)
    assert seen == [("shop.items", 0), ("shop.items", 3)]
