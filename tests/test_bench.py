"""
The benchmarks at a size that takes seconds: that they work, and that results are checked. No times.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from engine.bench.decode_runs import measure_decode
from engine.bench.kept import Sums
from engine.bench.latency import measure_latency
from engine.bench.result import Repetition, Result, percentiles, short
from engine.bench.stream import Bench, measure_snapshot, measure_stream
from engine.bench.suite import measurements
from engine.bench.target import private_target
from engine.bench.workloads import ORDERS, SBTEST, all_workloads
from engine.cli import main
from engine.sandbox import SandboxUnavailable
from tests.servers import do_without

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


def test_the_same_size_gives_the_same_bytes() -> None:
    assert list(ORDERS.rows(50)) == list(ORDERS.rows(50))
    assert len(set(WORKLOADS["update"].touched())) == WORKLOADS["update"].changes


def test_a_row_of_orders_has_a_value_for_each_column() -> None:
    assert {len(row) for row in ORDERS.rows(200)} == {25}
    assert {len(row) for row in SBTEST.rows(200)} == {4}


def test_the_names_of_the_results() -> None:
    assert list(measurements(ROWS)) == [
        *("decode-bulk", "decode-single", "decode-orders", "stream-insert", "stream-update"),
        *("stream-single", "stream-delete", "stream-orders", "snapshot", "latency"),
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


def test_percentiles_are_samples() -> None:
    found = percentiles([float(n) for n in range(1, 101)])
    assert found == {"p50": 50.0, "p90": 90.0, "p99": 99.0, "max": 100.0}


def test_numbers_for_people() -> None:
    assert [short(n) for n in (1_391_000, 108_200, 95)] == ["1.39 M", "108 k", "95"]


def test_orders_arrive_as_they_were_written(bench: Bench) -> None:
    result = measure_stream(bench, "stream-orders", WORKLOADS["orders"])
    assert sum(commit.rows for commit in result.commits) == result.rows == ROWS // 5
    assert 0 < result.repetitions[0].seconds < result.repetitions[0].wall_seconds
    assert result.repetitions[0].target_cpu_seconds is not None


def test_updates_and_their_limit_end_in_the_same_rows(bench: Bench) -> None:
    fields = measure_stream(bench, "stream-update", WORKLOADS["update"]).to_json()
    assert fields["rows"] == 300
    assert fields["ratio_to_limit"] > 0
    assert fields["peak_memory_mb"] > 10


def test_a_copy_and_its_limit_end_in_the_same_rows(bench: Bench) -> None:
    result = measure_snapshot(bench, "snapshot", WORKLOADS["insert"])
    assert result.rows == ROWS
    assert len(result.limits) == 2


def test_every_row_of_the_load_is_seen(bench: Bench) -> None:
    result = measure_latency(bench, "latency", ROWS)
    assert len(result.latencies_ms) == result.rows
    assert result.percentiles_ms is not None
    assert 0 < result.percentiles_ms["p50"] <= result.percentiles_ms["max"]


def test_a_wrong_result_is_no_result(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("engine.bench.target.sums", lambda url, form: Sums(ROWS, 1))
    with pytest.raises(Exception, match="the source holds"):
        measure_snapshot(bench, "snapshot", WORKLOADS["insert"])


def test_decoding_finds_all_rows(bench: Bench) -> None:
    result = measure_decode(bench, "decode-single", WORKLOADS["single"])
    assert result.rows == 200
    assert result.to_json()["mb_per_second"] > 0


def test_the_command_prints_json(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    words = ["decode", "--only", "decode-bulk", "--rows", str(ROWS), "--repeat", "1", "--json"]
    assert main(["bench", *words]) == 0
    answer = json.loads(capfd.readouterr().out)
    assert set(answer) == {"machine", "results"}
    assert [result["name"] for result in answer["results"]] == ["decode-bulk"]
    assert list(answer["results"][0])[: len(FIELDS)] == FIELDS
