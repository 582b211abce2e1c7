"""
The demo: the shop has its oddities, its writer counts exactly, and the whole demo runs.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import tempfile
import xml.etree.ElementTree as ET
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from engine.cli.main import main
from engine.demo.shop import SHOP, connect, load_shop, row_counts
from engine.demo.workload import SCHEMA_CHANGES
from engine.demo.writer import ShopWriter
from tests.support.servers import AnyServer, drop_mysql_database
from tests.support.waiting import wait_until

DEMO_DEADLINE_SECONDS = 90
ROWS = 4000
SVG = "{http://www.w3.org/2000/svg}"


@pytest.fixture(params=["mysql", "mariadb_10"])
def make_shop(request: pytest.FixtureRequest) -> Iterator[Callable[..., str]]:
    """A function that loads a shop of ``ROWS`` rows, and returns its URL."""
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


def test_the_same_seed_gives_the_same_rows(make_shop: Callable[..., str]) -> None:
    first, again, other = make_shop(1), make_shop(1), make_shop(2)
    assert sum(row_counts(first).values()) == ROWS
    assert checksums(first) == checksums(again) != checksums(other)


def test_the_shop_has_the_oddities_of_old_databases(make_shop: Callable[..., str]) -> None:
    url = make_shop()
    for oddity in (
        "customers WHERE born = '0000-00-00'",
        "customers WHERE born = '1980-00-00'",
        "customers WHERE newsletter = 2",
        "customers WHERE since = 0",
        "customers WHERE notes LIKE '%\\\\\\\\N%'",
        "customers WHERE notes LIKE '%\t%\n%'",
        "addresses WHERE hex(street) LIKE '%80%'",  # the euro sign in cp1252
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


def test_the_writer_ends_on_sigterm_and_at_the_end_of_its_input(
    make_shop: Callable[..., str],
) -> None:
    command = [sys.executable, "-m", "engine.demo.writer", make_shop(), "--rate", "200"]
    for end in (subprocess.Popen.terminate, lambda process: process.stdin.close()):
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        with process:
            assert process.stdout is not None
            assert process.stdout.readline()
            end(process)
            assert process.wait(10) == 0


def start_demo(folder: Path, *options: str) -> subprocess.Popen[str]:
    """Start the demo, with its temporary files in ``folder``."""
    command = [sys.executable, "-m", "engine.cli", "demo", "--plain", "--rows", str(ROWS)]
    return subprocess.Popen(
        [*command, *options],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=os.environ | {"TMPDIR": str(folder)},
    )


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder for temporary files that the servers' account may enter, unlike pytest's own."""
    with tempfile.TemporaryDirectory(prefix="tailrace-test-") as name:
        Path(name).chmod(0o755)
        yield Path(name)


@pytest.mark.usefixtures("mysql", "postgres")  # without servers the test is skipped
def test_the_demo_ends_with_the_shop_on_the_new_side(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    picture, report = tmp_path / "demo.svg", tmp_path / "cutover.html"
    options = ("--seconds", "3", "--record", str(picture), "--report", str(report))
    with start_demo(folder, *options) as demo:
        output, _ = demo.communicate(timeout=DEMO_DEADLINE_SECONDS)
    assert demo.returncode == 0, output
    assert "killed with SIGKILL" in output
    assert "the shop has moved: nothing lost, nothing repeated" in output
    assert f"schema changes  {len(SCHEMA_CHANGES)}" in output
    assert re.search(r"downtime +\d\.\d s, \d\.\d s predicted", output)
    assert report.name in output
    assert not list(folder.iterdir())
    assert main(["report", "verify", str(report)]) == 0
    assert re.search(r"Log when it was frozen</dt><dd><code>binlog\.\d+:\d+<", report.read_text())
    assert "changed" not in capsys.readouterr().out
    check_picture(picture, folder)


def check_picture(picture: Path, folder: Path) -> None:
    """The picture is well-formed SVG. It shows the lines and two frames of the live view, and
    neither loads anything nor names the machine's folders and ports.
    """
    root = ET.parse(picture).getroot()
    assert root.tag == f"{SVG}svg"
    assert not root.findall(f".//{SVG}image")
    text = "".join(root.itertext()).replace("\N{NO-BREAK SPACE}", " ")
    for expected in ("tailrace demo", "killed with SIGKILL", "the shop has moved"):
        assert expected in text
    for state in ("streaming", "live"):  # a small backfill may end between two pictures
        assert state in text
    for unwanted in ("@font-face", "@import", "http://", "https://", str(folder)):
        assert unwanted not in text
    assert set(re.findall(r"127\.0\.0\.1:(\d+)", text)) == {"3306", "5432"}


@pytest.mark.usefixtures("mysql", "postgres")
def test_an_interrupted_demo_leaves_nothing_behind(folder: Path) -> None:
    with start_demo(folder, "--seconds", "60") as demo:
        assert demo.stdout is not None
        assert any("backfill complete" in line for line in demo.stdout)
        demo.send_signal(signal.SIGINT)
        demo.communicate(timeout=DEMO_DEADLINE_SECONDS)
    assert demo.returncode == 1
    assert not list(folder.iterdir())
    running = [path.read_bytes() for path in Path("/proc").glob("[0-9]*/cmdline")]
    assert not any(str(folder).encode() in command for command in running)


@pytest.mark.parametrize(
    ("option", "file", "said"),
    [
        ("--record", "none/demo.svg", "does not exist"),
        ("--report", "none/cutover.html", "does not exist"),
        ("--report", "cutover.pdf", "has to end with .html or .json"),
    ],
)
def test_files_are_refused_before_the_demo(
    option: str, file: str, said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(["demo", option, str(tmp_path / file)])
    assert stopped.value.code == 2
    assert said in capsys.readouterr().err
