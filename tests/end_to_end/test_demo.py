"""
The demonstration: the shop is as odd as promised, its writer is exact, and the whole show runs.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from engine.demo.shop import SHOP, connect, load_shop, row_counts
from engine.demo.trade import SCHEMA_CHANGES
from engine.demo.writer import ShopWriter
from tests.support.servers import AnyServer, drop_mysql_database
from tests.support.waiting import wait_until

SHOW_DEADLINE_SECONDS = 90
ROWS = 4000


@pytest.fixture(params=["mysql", "mariadb_10"])
def make_shop(request: pytest.FixtureRequest) -> Iterator[Callable[..., str]]:
    """A function that loads a shop with `ROWS` rows and returns its URL."""
    server: AnyServer = request.getfixturevalue(request.param)
    names: list[str] = []

    def make(seed: int = 1) -> str:
        names.append(f"shop_{uuid4().hex[:12]}")
        url = f"{server.url.rpartition('/')[0]}/{names[-1]}"
        load_shop(url, ROWS, seed)
        return url

    yield make
    for name in names:
        drop_mysql_database(server, name)


def ask(url: str, question: str) -> tuple[tuple[Any, ...], ...]:
    with connect(url) as connection, connection.cursor() as cursor:
        cursor.execute(question)
        return cursor.fetchall()


def checksums(url: str) -> tuple[tuple[Any, ...], ...]:
    answers = ask(url, f"CHECKSUM TABLE {', '.join(table.name for table in SHOP)}")
    return tuple(row[1:] for row in answers)


def test_the_shop_has_its_rows_and_they_come_from_the_seed(make_shop: Callable[..., str]) -> None:
    first, again, other = make_shop(1), make_shop(1), make_shop(2)
    assert sum(row_counts(first).values()) == ROWS
    assert checksums(first) == checksums(again) != checksums(other)


def test_the_shop_is_as_odd_as_old_databases_are(make_shop: Callable[..., str]) -> None:
    url = make_shop()
    for oddity in (
        "customers WHERE born = '0000-00-00'",
        "customers WHERE born = '1980-00-00'",
        "customers WHERE newsletter = 2",
        "customers WHERE since = 0",
        "customers WHERE notes LIKE '%\\\\\\\\N%'",
        "customers WHERE notes LIKE '%\t%\n%'",
        "addresses WHERE hex(street) LIKE '%80%'",  # the euro sign, which Latin-1 does not have
        "orders WHERE id > 9223372036854775807",
        "orders WHERE state = '' AND state IS NOT NULL",
        "deliveries WHERE duration > '24:00:00'",
        "deliveries WHERE duration < '-24:00:00'",
        "products WHERE hex(barcode) LIKE '%0000'",
    ):
        ((count,),) = ask(url, f"SELECT count(*) FROM {oddity}")
        assert count, oddity
    keyless = ask(
        url,
        "SELECT table_name FROM information_schema.tables t WHERE table_schema = database() AND"
        " NOT EXISTS (SELECT 1 FROM information_schema.statistics s WHERE s.non_unique = 0"
        " AND s.table_schema = t.table_schema AND s.table_name = t.table_name)",
    )
    assert sorted(keyless) == [("ledger",), ("page_views",)]


def test_the_writer_has_one_ledger_row_for_every_transaction(make_shop: Callable[..., str]) -> None:
    url = make_shop()
    with ShopWriter(url, transactions_per_second=2000, seed=7) as writer:
        wait_until(lambda: writer.counts.transactions > 300, what="transactions")
        writer.migrate()
        wait_until(lambda: "complain" in writer.counts.kinds, what="use of the new table")
        counts = writer.stop()
    assert counts == writer.counts
    assert counts.schema_changes == len(SCHEMA_CHANGES)
    assert len(counts.kinds) == 16
    numbers = ask(url, "SELECT count(*), count(DISTINCT number), max(number) FROM ledger")
    assert numbers == ((counts.transactions,) * 3,)
    ((renamed, dropped),) = ask(
        url,
        "SELECT sum(column_name = 'remarks'), sum(column_name = 'fax')"
        " FROM information_schema.columns WHERE table_schema = database()",
    )
    assert (renamed, dropped) == (1, 0)


def test_the_writer_keeps_its_pace(make_shop: Callable[..., str]) -> None:
    with ShopWriter(make_shop(), transactions_per_second=100) as writer:
        wait_until(lambda: writer.counts.transactions > 150, what="transactions")
        writer.stop()
    span = "timestampdiff(MICROSECOND, min(written), max(written))"
    ((count, microseconds),) = ask(writer.url, f"SELECT count(*), {span} FROM ledger")
    assert count / microseconds * 1e6 == pytest.approx(100, rel=0.3)


def test_the_writer_ends_on_sigterm_and_with_whoever_started_it(
    make_shop: Callable[..., str],
) -> None:
    words = [sys.executable, "-m", "engine.demo.writer", make_shop(), "--rate", "200"]
    for end in (subprocess.Popen.terminate, lambda process: process.stdin.close()):
        process = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        with process:
            assert process.stdout is not None
            assert process.stdout.readline()
            end(process)
            assert process.wait(10) == 0


def start_show(folder: Path, *options: str) -> subprocess.Popen[str]:
    words = [
        sys.executable,
        "-m",
        "engine.cli",
        "demo",
        "--plain",
        "--rows",
        str(ROWS),
        *options,
    ]
    return subprocess.Popen(
        words,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=os.environ | {"TMPDIR": str(folder)},
    )


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder for temporary files that the servers' account may enter; pytest's own it may not."""
    with tempfile.TemporaryDirectory(prefix="tailrace-test-") as name:
        Path(name).chmod(0o755)
        yield Path(name)


@pytest.mark.usefixtures("mysql", "postgres")  # so that a machine without servers skips
def test_the_show_ends_with_both_sides_equal(folder: Path) -> None:
    with start_show(folder, "--seconds", "5") as show:
        said, _ = show.communicate(timeout=SHOW_DEADLINE_SECONDS)
    assert show.returncode == 0, said
    assert "SIGKILL to the engine" in said
    assert "both sides are equal" in said
    assert f"schema changes  {len(SCHEMA_CHANGES)}" in said
    assert not list(folder.iterdir())


@pytest.mark.usefixtures("mysql", "postgres")
def test_the_show_leaves_nothing_behind_when_interrupted(folder: Path) -> None:
    with start_show(folder, "--seconds", "60") as show:
        assert show.stdout is not None
        assert any("the snapshot is complete" in line for line in show.stdout)
        show.send_signal(signal.SIGINT)
        show.communicate(timeout=SHOW_DEADLINE_SECONDS)
    assert show.returncode == 1
    assert not list(folder.iterdir())
    running = [path.read_bytes() for path in Path("/proc").glob("[0-9]*/cmdline")]
    assert not any(str(folder).encode() in words for words in running)
