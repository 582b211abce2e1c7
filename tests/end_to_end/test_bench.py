"""
The benchmarks at a small size: they work, and their results are checked. No test asserts a time.

Some tests measure on servers that are given by URL, as a user's own servers are.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from benchmarks import check
from benchmarks.harness.clients import mysql as mysql_client
from benchmarks.harness.clients import psql
from benchmarks.harness.processes import measure
from benchmarks.harness.source import MARK, Sums, connect, drop_database
from benchmarks.harness.surroundings import FAR, TRACED, WATCHED, Comparison
from benchmarks.harness.target import Committed, Target, private_target
from benchmarks.measurements.bench import Bench
from benchmarks.measurements.latency import measure_latency
from benchmarks.measurements.profile import measure_profile
from benchmarks.measurements.profile_process import STEPS
from benchmarks.measurements.stream import measure_first_row, measure_snapshot, measure_stream
from benchmarks.measurements.verify import measure_verify
from benchmarks.reporting import markdown
from benchmarks.reporting.goals import GOALS
from benchmarks.reporting.result import Repetition, Result, percentiles, short, steady_seconds
from benchmarks.reread import measured
from benchmarks.suite import measurements
from benchmarks.workloads import DATABASE, ORDERS, SBTEST, all_workloads
from engine.cli.main import main
from engine.errors import ConfigError, TailraceError
from engine.sandbox import SandboxUnavailable
from tests.support.servers import AnyServer, do_without

ROOT = Path(__file__).parents[2]
SECRET = 'p@:s"w\\r$x/'
ROWS = 1_000
WORKLOADS = all_workloads(ROWS)
FIELDS = [
    *("name", "rows", "seconds", "rows_per_second", "limit_rows_per_second", "ratio_to_limit"),
    *("engine_cpu_seconds", "peak_memory_mb", "percentiles_ms"),
]


@pytest.fixture(scope="module")
def bench() -> Iterator[Bench]:
    try:
        with private_target() as target:
            yield Bench(target, repeat=1)
    except SandboxUnavailable as error:
        do_without(error)


@pytest.mark.slow
def test_both_ways_to_read_a_table_again(mysql: AnyServer, bench: Bench) -> None:
    _, _, *lines = measured(mysql.url, bench.target, ROWS)
    assert [line.split(" | ")[2:4] for line in lines] == [
        [indexes, way] for indexes in "013" for way in ("twin", "in place")
    ] * 3


def test_the_same_size_gives_the_same_bytes() -> None:
    assert list(ORDERS.rows(50)) == list(ORDERS.rows(50))
    assert len(set(WORKLOADS["update"].touched())) == WORKLOADS["update"].changes


def test_a_row_of_orders_has_a_value_for_each_column() -> None:
    assert {len(row) for row in ORDERS.rows(200)} == {25}
    assert {len(row) for row in SBTEST.rows(200)} == {4}


def test_the_names_of_the_results() -> None:
    assert list(measurements(ROWS)) == [
        *("decode-bulk", "decode-single", "decode-orders", "stream-insert", "stream-update"),
        *(
            "stream-single",
            "stream-delete",
            "stream-orders",
            "stream-mapped",
            "snapshot",
            *("stream-insert-far", "stream-update-far", "stream-single-far", "snapshot-far"),
            *("stream-insert-watched", "stream-insert-traced"),
            "verify",
            "latency",
        ),
        *("profile-insert", "profile-single", "profile-update", "profile-orders"),
    ]


def test_medians_of_the_repetitions() -> None:
    result = Result(name="x", rows=100, limits={"COPY": [1.0, 3.0, 2.0]})
    for seconds in (4.0, 50.0, 5.0):
        result.repetitions.append(
            Repetition(
                seconds=seconds, wall_seconds=9.0, engine_cpu_seconds=1.0, peak_memory_mb=80.0
            )
        )
    fields = result.to_json()
    assert list(fields)[: len(FIELDS)] == FIELDS
    assert (fields["rows_per_second"], fields["limit_rows_per_second"]) == (20, 50)
    assert (fields["ratio_to_limit"], fields["source_cpu_seconds"]) == (0.4, None)


def test_a_steady_rate_leaves_out_the_first_transaction() -> None:
    """Its time includes the start. Two subtransactions are committed at one time."""
    commits = [Committed(9.0, 0), *(Committed(at, 100) for at in (10.0, 10.0, 12.0, 14.0))]
    assert steady_seconds(commits, 400) == 8.0
    assert steady_seconds(commits[:3], 200) is None
    assert steady_seconds([], 200) is None


def test_percentiles_are_samples() -> None:
    found = percentiles([float(n) for n in range(1, 101)])
    assert found == {"p50": 50.0, "p90": 90.0, "p99": 99.0, "max": 100.0}


def test_numbers_have_three_digits() -> None:
    assert [short(n) for n in (1_391_000, 108_200, 95)] == ["1.39 M", "108 k", "95"]


@pytest.mark.parametrize(
    ("workload", "rows"),
    [("update", 300), pytest.param("orders", ROWS // 5, marks=pytest.mark.slow)],
)
def test_a_stream_and_its_limit_end_in_the_same_rows(
    bench: Bench, workload: str, rows: int
) -> None:
    far = workload == "update"
    result = measure_stream(bench, f"stream-{workload}", WORKLOADS[workload], FAR if far else None)
    assert sum(commit.rows for commit in result.commits) == result.rows == rows
    assert 0 < result.repetitions[0].seconds < result.repetitions[0].wall_seconds
    assert result.repetitions[0].target_cpu_seconds is not None
    fields = result.to_json()
    assert fields["progress"][-1][1] == rows
    assert fields["ratio_to_limit"] > 0
    assert fields["start_seconds"] > 0
    assert (fields["limit_start_seconds"] is not None) == far
    assert fields["peak_memory_mb"] > 10


@pytest.mark.slow
@pytest.mark.parametrize("compared", [WATCHED, TRACED], ids=lambda it: it.name)
def test_an_engine_is_compared_with_itself(bench: Bench, compared: Comparison) -> None:
    result = measure_stream(bench, "stream-insert", WORKLOADS["insert"], compared)
    assert list(result.to_json()["limits"]) == [compared.name]
    assert len(result.repetitions) == len(result.limits[compared.name]) == bench.repeat


@pytest.mark.slow
def test_a_snapshot_and_its_limits_end_in_the_same_rows(bench: Bench) -> None:
    result = measure_snapshot(bench, "snapshot", WORKLOADS["insert"])
    assert result.rows == ROWS
    assert len(result.limits) == 2


@pytest.mark.slow
def test_the_comparison_is_measured_in_both_ways(bench: Bench) -> None:
    result = measure_verify(bench, "verify", WORKLOADS["insert"])
    assert (result.rows, len(result.repetitions), len(result.limits)) == (ROWS, 1, 1)


@pytest.mark.slow
def test_latency_has_a_sample_for_each_row(bench: Bench) -> None:
    result = measure_latency(bench, "latency", ROWS)
    assert len(result.latencies_ms) == result.rows
    assert result.percentiles_ms is not None
    assert 0 < result.percentiles_ms["p50"] <= result.percentiles_ms["max"]


def test_a_wrong_result_is_an_error(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("benchmarks.harness.target.sums", lambda url, spec: Sums(ROWS, 1))
    with pytest.raises(TailraceError, match="the source holds"):
        measure_first_row(bench, "first-row", WORKLOADS["single"])


@pytest.mark.slow
def test_each_step_of_the_engine_is_measured(bench: Bench) -> None:
    result = measure_profile(bench, "profile-single", WORKLOADS["single"])
    steps = result.to_json()["steps_cpu_seconds"]
    assert tuple(steps) == STEPS
    assert all(used >= 0 for used in steps.values())
    assert sum(steps.values()) > 0


def test_peak_memory_is_that_of_the_program_only(tmp_path: Path) -> None:
    ours = bytearray(200 << 20)
    for place in range(0, len(ours), 4096):
        ours[place] = 1
    assert 0 < measure(["sleep", "0.1"], tmp_path / "log").peak_memory_mb < 50


# -- servers of the user's own ---------------------------------------------------------------------


@pytest.fixture
def own_source(mysql: AnyServer) -> Iterator[str]:
    """The URL of a user with a password, on a server without the benchmarks' database."""
    with closing(connect(mysql.url)) as session, session.cursor() as cursor:
        cursor.execute("CREATE USER bench_user@'%%' IDENTIFIED BY %s", (SECRET,))
        cursor.execute("GRANT ALL ON *.* TO bench_user@'%'")
        yield f"mysql://bench_user:{quote(SECRET, safe='')}@{mysql.host}:{mysql.port}/"
        cursor.execute("DROP USER bench_user@'%'")
        cursor.execute(f"DROP DATABASE IF EXISTS {DATABASE}")


def test_own_servers_are_left_unchanged(bench: Bench, own_source: str) -> None:
    own = Bench(bench.target, repeat=1, source_url=own_source)
    fields = measure_first_row(own, "first-row", WORKLOADS["delete"]).to_json()
    assert fields["seconds"] > 0
    assert (fields["rows_per_second"], fields["source_cpu_seconds"]) == (None, None)
    assert own.source_info["version"].startswith("9.")
    with closing(connect(own_source)) as session, session.cursor() as cursor:
        assert cursor.execute("SHOW DATABASES LIKE %s", (DATABASE,)) == 0


def test_a_foreign_source_database_is_not_dropped(bench: Bench, own_source: str) -> None:
    with closing(connect(own_source)) as session, session.cursor() as cursor:
        cursor.execute(f"CREATE DATABASE {DATABASE}")
        with pytest.raises(ConfigError, match="did not create"):
            drop_database(own_source)
        cursor.execute(f"CREATE VIEW {DATABASE}.{MARK} AS SELECT 1")
        drop_database(own_source)
        assert cursor.execute("SHOW DATABASES LIKE %s", (DATABASE,)) == 0


def test_a_foreign_target_database_is_not_dropped(
    postgres: AnyServer, fresh_postgres_database: Callable[[AnyServer], str]
) -> None:
    url = fresh_postgres_database(postgres)
    with (
        pytest.raises(ConfigError, match="did not create"),
        Target(url).named(url.rpartition("/")[2]),
    ):
        raise AssertionError("the database was dropped")


def test_passwords_are_in_private_files(own_source: str, tmp_path: Path) -> None:
    client = [*mysql_client(own_source, tmp_path), "--execute", "SELECT 6 * 7"]
    measure(client, tmp_path / "output")
    assert (tmp_path / "output").read_text() == "42\n"
    words = [*client, *psql(f"postgresql://me:{quote(SECRET, safe='')}@localhost/x", tmp_path)]
    assert not any(SECRET in word or quote(SECRET, safe="") in word for word in words)
    assert (tmp_path / "pgpass").read_text() == '*:*:*:*:p@\\:s"w\\\\r$x/\n'
    assert {(tmp_path / name).stat().st_mode & 0o777 for name in ("pgpass", "mysql.cnf")} == {0o600}


# -- reports, plots and the check ------------------------------------------------------------------


def _report() -> dict[str, Any]:
    machine = {"cpu": "a", "cores": 2, "memory_gb": 8.0, "system": "b", "python": "3.11"}
    result = Result(name="stream-insert", rows=1_000_000, limits={"COPY": [1.4, 1.5]}, bytes=9)
    result.workload = WORKLOADS["insert"].shape()
    for seconds in (2.0, 2.2):
        result.repetitions.append(
            Repetition(
                seconds=seconds, wall_seconds=2.4, engine_cpu_seconds=1.3, peak_memory_mb=92.0
            )
        )
    result.commits = [Committed(float(n), 100_000 * (n > 0)) for n in range(11)]
    latency = Result(name="latency", rows=1000, latencies_ms=[float(n) for n in range(1, 1001)])
    latency.percentiles_ms = percentiles(latency.latencies_ms)
    profile = Result(name="profile-insert", rows=1000, steps=dict.fromkeys(STEPS, 0.25))
    results = [each.to_json() for each in (result, latency, profile)]
    return {"machine": machine, "results": results}


def test_the_results_page_has_all_marks() -> None:
    text = markdown.read(ROOT / "benchmarks" / "results" / "README.md")
    assert [name for name in markdown.SECTIONS if f"<!-- {name} -->" not in text] == []


def test_the_results_page_shows_the_recorded_results(tmp_path: Path) -> None:
    recorded = ROOT / "benchmarks" / "results"
    page = tmp_path / "README.md"
    page.write_text((recorded / "README.md").read_text())
    assert main(["bench", "all", "--from", f"{recorded}/results.json", "--report", str(page)]) == 0
    assert page.read_text() == (recorded / "README.md").read_text()


def test_a_report_is_filled_from_saved_results(tmp_path: Path) -> None:
    saved, page = tmp_path / "results.json", tmp_path / "page.md"
    saved.write_text(json.dumps(_report()))
    page.write_text("before\n<!-- goals -->\nold\n<!-- /goals -->\nafter\n")
    for _ in range(2):
        assert main(["bench", "all", "--from", str(saved), "--report", str(page)]) == 0
    lines = page.read_text().splitlines()
    assert (lines[0], lines[-1], lines.count("old")) == ("before", "after", 0)
    assert "| stream inserts, of COPY | 0.75 | 0.95 | 0.69 | **not reached** |" in lines
    assert "| the engine's CPU time per million rows, s | 2.5 | 1.2 | 1.3 | reached |" in lines
    assert len(lines) == len(GOALS) + 6


def test_a_report_without_an_end_mark_is_refused(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("<!-- results -->\nall the rest")
    with pytest.raises(ConfigError, match="no end"):
        markdown.fill(page, _report())


def test_plots_are_drawn_from_saved_results(tmp_path: Path) -> None:
    saved = tmp_path / "results.json"
    saved.write_text(json.dumps(_report()))
    assert main(["bench", "all", "--from", str(saved), "--plot", str(tmp_path / "plots")]) == 0
    drawn = {path.name for path in (tmp_path / "plots").iterdir()}
    names = ("throughput", "latency", "lag", "rows", "profile")
    assert drawn == {f"{name}{suffix}" for name in names for suffix in (".png", ".svg")}


def test_a_slower_codec_fails_the_check(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "check").symlink_to(ROOT / "benchmarks" / "results" / "check")
    monkeypatch.setattr(check, "ROUNDS", 1)
    monkeypatch.setattr(check, "PASSES", 1)
    file = tmp_path / "check.json"
    assert check.main([str(file), "--record"]) == 0
    recorded = json.loads(file.read_text())
    recorded["turns_per_row"]["decode-bulk"] /= 10
    recorded["turns_per_row"]["encode-bulk"] *= 10
    file.write_text(json.dumps(recorded))
    assert check.main([str(file)]) == 1
    output = capsys.readouterr().out
    assert "decode-bulk costs" in output
    assert "encode-bulk costs" not in output
    assert f"{file} --record" in output


def test_the_recorded_costs_are_complete() -> None:
    file = ROOT / "benchmarks" / "results" / "check.json"
    recorded = json.loads(file.read_text())["turns_per_row"]
    assert check.slower(recorded, recorded) == {}
    assert check.slower(recorded, {name: 1.5 * cost for name, cost in recorded.items()}).keys() == {
        *("decode-bulk", "decode-single", "decode-orders", "decode-text"),
        *("decode-bulk-compiled", "decode-single-compiled", "decode-orders-compiled"),
        "decode-text-compiled",
        *("encode-bulk", "encode-orders", "encode-bulk-compiled", "encode-orders-compiled"),
    }


def test_the_command_prints_json(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    words = ["decode", "--only", "decode-single", "--rows", str(ROWS), "--repeat", "1", "--json"]
    assert main(["bench", *words]) == 0
    report = json.loads(capfd.readouterr().out)
    assert set(report) == {"machine", "results"}
    (fields,) = report["results"]
    assert (fields["name"], fields["rows"]) == ("decode-single", 200)
    assert list(fields)[: len(FIELDS)] == FIELDS
    assert fields["mb_per_second"] > 0
    assert report["machine"]["mysql"]["sync_binlog"] == "0"
    assert report["machine"]["postgresql"]["fsync"] == "on"
