"""
The memory of a comparison grows neither with the table nor with the size of its rows.
"""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import pytest

from tests.support.compared_memory import MODES
from tests.support.sides import Sides

#: Half of the few are more than a sample may have.
FEW, MANY = 500_000, 1_000_000
#: What the memory of two comparisons may differ by, in MiB.
NOISE = 16
KEYS = {
    "by_number": "id INT PRIMARY KEY",
    "by_text": "id VARCHAR(20) CHARACTER SET ascii COLLATE ascii_bin PRIMARY KEY",
    "keyless": "id INT",
}
DIGITS = f"(SELECT 0 AS d UNION {' UNION '.join(f'SELECT {digit}' for digit in range(1, 10))})"

pytestmark = pytest.mark.slow


def fill(sides: Sides, name: str, rows: int, value: str = "repeat('x', 60)") -> None:
    """Fill both tables with equal rows."""
    number = " + ".join(f"{10**n} * t{n}.d" for n in range(4))
    numbers = f"SELECT {number} AS n FROM {', '.join(f'{DIGITS} AS t{n}' for n in range(4))}"
    for start in range(0, rows, 10_000):
        chosen = f"FROM ({numbers}) AS s WHERE n < {rows - start}"
        sides.on_source(f"INSERT INTO {name} SELECT {start} + n, {value} {chosen}")
    sides.on_target(f"INSERT INTO {name} SELECT n, {value} FROM generate_series(0, {rows - 1}) n")


def compared(sides: Sides, name: str, mode: str = "checksums") -> tuple[Any, ...]:
    """The rows, the method, the rows that differ, and the memory in MiB."""
    urls = sides.server.url, sides.target_url
    command = [sys.executable, "-m", "tests.support.compared_memory", *urls, sides.schema, name]
    done = subprocess.run([*command, mode], capture_output=True, timeout=300, check=True)
    rows, method, differing, inconclusive, largest = json.loads(done.stdout)
    print(f"{name} {mode}: {rows:,} rows by {method}, {largest} MiB")
    assert inconclusive == ""
    return rows, method, differing, largest


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("key", KEYS)
def test_the_memory_does_not_grow_with_the_table(sides: Sides, key: str, mode: str) -> None:
    if key == "keyless" and mode != "checksums":
        pytest.skip("it has up to 1,000,000 digests, or is compared whole")
    found = []
    for name, rows in (("few", FEW), ("many", MANY)):
        sides.make(name, f"{KEYS[key]}, v VARCHAR(100) NOT NULL")
        fill(sides, name, rows)
        found.append(compared(sides, name, mode))
        if mode != "sample":
            assert found[-1][:3] == (rows, mode, 0)
    few, many = (each[-1] for each in found)
    assert many - few < NOISE


@pytest.mark.parametrize("key", KEYS)
def test_the_memory_does_not_grow_with_the_rows(sides: Sides, key: str) -> None:
    """All of 200 rows of a megabyte differ."""
    table = sides.make("t", f"{KEYS[key]}, v LONGTEXT NOT NULL")
    fill(sides, "t", 200, "repeat('x', 1000000)")
    sides.on_target("UPDATE t SET v = overlay(v placing 'y' from 1000000)")
    rows, _, differing, largest = compared(sides, "t")
    assert (rows, differing) == (200, 200 if table.key else 0)
    assert largest < 300


@pytest.mark.parametrize("mode", ["checksums", "rows"])
@pytest.mark.parametrize("key", KEYS)
def test_wide_rows_behind_narrow_ones(sides: Sides, key: str, mode: str) -> None:
    """200 rows of a megabyte follow 2,000 small ones, also in a recheck, and all differ."""
    if key == "keyless" and mode == "rows":
        pytest.skip("its rows are read in the same way")
    sides.make("wide", f"{KEYS[key]}, v LONGTEXT NOT NULL")
    table = sides.make("t", f"{KEYS[key]}, v LONGTEXT NOT NULL")
    fill(sides, "wide", 200, "repeat('x', 1000000)")
    fill(sides, "t", 2000)
    later = "concat('z', id)" if key == "by_text" else "9000000 + id"
    for run in (sides.on_source, sides.on_target):
        run(f"INSERT INTO t SELECT {later}, v FROM wide")
    sides.on_target("UPDATE t SET v = overlay(v placing 'y' from 1)")
    rows, _, differing, largest = compared(sides, "t", mode)
    assert (rows, differing) == (2200, 2200 if table.key else 0)
    assert largest < 350
