"""
The peers of the benchmarks at a small size: each does its work, and wrong or missing results are
reported. Tests of peers that need a large download are skipped until it is in the cache.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from fnmatch import fnmatchcase
from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console

from benchmarks.harness.source import Backlog, Sums
from benchmarks.harness.target import Target, private_target
from benchmarks.measurements.bench import Bench
from benchmarks.measurements.decode import measure_decode
from benchmarks.measurements.stream import measure_snapshot, measure_stream
from benchmarks.measurements.verify import measure_verify
from benchmarks.peers import debezium, pg_chameleon, pgloader
from benchmarks.peers.data_diff import DATA_DIFF, RELADIFF, DataDiff
from benchmarks.peers.environments import Environment
from benchmarks.peers.logical import LogicalReplication
from benchmarks.peers.measure import PEERS
from benchmarks.peers.mysql_replication import MySQLReplication
from benchmarks.peers.peer import (
    STREAMS,
    CannotRun,
    Peer,
    PeerResult,
    PeerRun,
    PreparedPeer,
    Scenario,
    address,
    start_position,
)
from benchmarks.peers.tailrace_on_mariadb import TailraceOnMariaDB
from benchmarks.reporting.result import Result
from benchmarks.reporting.terminal import notes, show_peers
from benchmarks.suite import measurements
from benchmarks.workloads import all_workloads
from engine.sandbox import SandboxUnavailable
from engine.sandbox.cache import cache_folder
from tests.support.servers import do_without

ROOT = Path(__file__).parents[2]
ROWS = 1_000
WORKLOADS = all_workloads(ROWS)
FIELDS = [
    *("name", "version", "seconds", "rows_per_second", "cpu_seconds", "peak_memory_mb"),
    *("engine_is_faster", "correct", "reason"),
]


class Idle:
    """A peer that applies nothing."""

    name = "idle"
    results = STREAMS

    @contextmanager
    def prepare(self, scenario: Scenario) -> Iterator[PreparedPeer]:
        assert scenario.base is not None
        correct = scenario.is_right(scenario.base)
        yield PreparedPeer("1", lambda: PeerRun(seconds=1, wall_seconds=1, correct=correct))


class Absent:
    """A peer that cannot run."""

    name = "absent"
    results = STREAMS

    @contextmanager
    def prepare(self, scenario: Scenario) -> Iterator[PreparedPeer]:
        raise CannotRun("needs a fax machine", hint="first line\nsecond\nthird\nfourth")
        yield


@pytest.fixture(scope="module")
def target() -> Iterator[Target]:
    try:
        with private_target() as target:
            yield target
    except SandboxUnavailable as error:
        do_without(error)


def measured(result: Result) -> PeerResult:
    """The only peer of a result, which must have run with a correct result."""
    (peer,) = result.peers
    fields = peer.to_json(result.rows, result.rows_per_second)
    assert list(fields)[: len(FIELDS)] == FIELDS
    assert (peer.reason, fields["correct"], len(peer.runs)) == (None, True, 1)
    assert fields["rows_per_second"] > 0
    assert fields["engine_is_faster"] > 0
    return peer


def stream(target: Target, peer: Peer, workload: str) -> PeerResult:
    bench = Bench(target, repeat=1, peers=(peer,))
    return measured(measure_stream(bench, f"stream-{workload}", WORKLOADS[workload]))


def snapshot(target: Target, peer: Peer) -> PeerResult:
    bench = Bench(target, repeat=1, peers=(peer,))
    return measured(measure_snapshot(bench, "snapshot", WORKLOADS["insert"]))


def need(folder: Path) -> None:
    if not folder.exists():
        pytest.skip(f"needs {folder}, a large download that `tailrace bench --peers` makes")


def test_each_peer_takes_part_in_existing_results() -> None:
    assert len({peer.name for peer in PEERS}) == len(PEERS)
    for peer in PEERS:
        assert peer.results
        assert peer.results <= set(measurements(ROWS))


@pytest.mark.slow
def test_postgresql_replicates_the_same_updates_again_and_again(target: Target) -> None:
    bench = Bench(target, repeat=1, peers=(LogicalReplication(),), peer_repeat=2)
    (peer,) = measure_stream(bench, "stream-update", WORKLOADS["update"]).peers
    assert peer.reason is None
    assert [run.correct for run in peer.runs] == [True, True]
    assert peer.median("cpu_seconds") is not None


@pytest.mark.slow
def test_postgresql_replicates_every_type(target: Target) -> None:
    stream(target, LogicalReplication(), "orders")


@pytest.mark.parametrize(
    ("name", "workload"),
    [pytest.param("bulk", "insert", marks=pytest.mark.slow), ("orders", "orders")],
)
def test_mysql_replication_decodes_the_same_values(
    target: Target, name: str, workload: str
) -> None:
    bench = Bench(target, repeat=1, peers=(MySQLReplication(),))
    result = measure_decode(bench, f"decode-{name}", WORKLOADS[workload])
    assert measured(result).median("peak_memory_mb")


@pytest.mark.slow
def test_a_peer_that_is_wrong_or_absent_is_reported(target: Target) -> None:
    lines: list[str] = []
    bench = Bench(target, repeat=1, notify=lines.append, peers=(Idle(), Absent()))
    result = measure_stream(bench, "stream-delete", WORKLOADS["delete"])
    idle, absent = result.to_json()["peers"]
    assert (idle["correct"], idle["reason"]) == (False, None)
    assert (absent["correct"], absent["seconds"], absent["engine_is_faster"]) == (None, None, None)
    assert absent["reason"] == "needs a fax machine\nsecond\nthird\nfourth"
    assert any("absent cannot run" in text for text in lines)
    assert "stream-delete: absent has no result: needs a fax machine" in "\n".join(
        notes([result.to_json()])
    )


def test_the_table_of_peers_fits_in_80_columns() -> None:
    run = PeerRun(
        seconds=123.4, wall_seconds=9, correct=True, cpu_seconds=99.9, peak_memory_mb=1500
    )
    peers = [PeerResult(name=peer.name, version="1", runs=[run]) for peer in PEERS]
    fields = {"name": "stream-insert", "peers": [peer.to_json(1_000_000, 5e5) for peer in peers]}
    console = Console(width=80, file=StringIO())
    show_peers(console, [fields])
    text = console.file.getvalue()  # type: ignore[attr-defined]
    assert "…" not in text
    assert all(peer.name in text for peer in PEERS)


def test_without_peers_there_is_no_table() -> None:
    console = Console(file=StringIO())
    show_peers(console, [{"name": "stream-insert", "peers": []}, {"name": "snapshot"}])
    assert console.file.getvalue() == ""  # type: ignore[attr-defined]


def test_a_position_with_gtids_only_gets_the_first_file() -> None:
    backlog = Backlog("x", '{"server":"s","gtid":"u:1-3"}', ["binlog.000007"], 1, Sums(0, 0))
    found = start_position(backlog)
    assert (found["file"], found["offset"], found["gtid"]) == ("binlog.000007", 4, "u:1-3")


def test_the_parts_of_an_address() -> None:
    assert address("postgresql://a%40b:c%2Fd@db.example/x") == {
        "host": "db.example",
        "port": 5432,
        "user": "a@b",
        "password": "c/d",
        "database": "x",
    }


def test_environments_are_in_the_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TAILRACE_CACHE", str(tmp_path))
    first, second = Environment("x", ("a>=1",), 1), Environment("x", ("a>=2",), 1)
    assert first.folder.parent == tmp_path.resolve() / "peers"
    assert first.folder != second.folder


def test_an_installed_package_has_the_programs_of_the_peers(tmp_path: Path) -> None:
    """Copy the packages that pyproject.toml puts into a wheel, and look for the programs there."""
    found = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]
    include, exclude = found["find"]["include"], found["find"]["exclude"]
    for file in (ROOT / "benchmarks").rglob("*.py"):
        copy = tmp_path / file.relative_to(ROOT)
        package = ".".join(copy.relative_to(tmp_path).parent.parts)
        if any(fnmatchcase(package, pattern) for pattern in include) and not any(
            fnmatchcase(package, pattern) for pattern in exclude
        ):
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(file, copy)
    programs = ("debezium_upsert.py", "mysql_replication_decode.py")
    code = "import sys; from benchmarks.peers.environments import program\n"
    code += "for name in sys.argv[1:]: print(program(name))"
    ran = subprocess.run(
        [sys.executable, "-c", code, *programs],
        env=os.environ | {"PYTHONPATH": f"{tmp_path}:{ROOT}"},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    paths = [Path(line) for line in ran.stdout.splitlines()]
    assert paths == [tmp_path / "benchmarks" / "peers" / "programs" / name for name in programs]
    assert all(path.is_file() for path in paths)


# -- peers that need a download --------------------------------------------------------------------


@pytest.mark.parametrize("workload", ["delete", "orders"])
def test_debezium_applies_a_backlog(target: Target, workload: str) -> None:
    need(debezium.ENVIRONMENT.folder)
    if shutil.which("java") is None:
        pytest.skip("needs java")
    assert stream(target, debezium.Debezium(), workload).median("peak_memory_mb")


def test_pg_chameleon_applies_a_backlog(target: Target) -> None:
    need(pg_chameleon.ENVIRONMENT.folder)
    assert stream(target, pg_chameleon.PgChameleon(), "update").note


def test_pg_chameleon_loads_a_table(target: Target) -> None:
    need(pg_chameleon.ENVIRONMENT.folder)
    snapshot(target, pg_chameleon.PgChameleon())


def test_pgloader_loads_a_table(target: Target) -> None:
    if shutil.which("pgloader") is None:
        need(cache_folder() / "debian" / f"{pgloader.BUNDLE.suite}-{pgloader.BUNDLE.packages[0]}")
    snapshot(target, pgloader.Pgloader())


@pytest.mark.slow
def test_tailrace_compares_the_table_of_the_peers(target: Target) -> None:
    bench = Bench(target, repeat=1, peers=(TailraceOnMariaDB(),))
    measured(measure_verify(bench, "verify", WORKLOADS["insert"]))


@pytest.mark.slow
@pytest.mark.parametrize("peer", [RELADIFF, DATA_DIFF], ids=lambda it: it.name)
def test_the_peers_of_verify_compare_a_table(target: Target, peer: DataDiff) -> None:
    need(peer.environment.folder)
    bench = Bench(target, repeat=1, peers=(peer,))
    measured(measure_verify(bench, "verify", WORKLOADS["insert"]))
