"""The metrics of a pipeline: their list, what is counted, how many series there are; the log."""

from __future__ import annotations

import json
import logging
import random
import re
import subprocess
import time

import msgspec
import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families

from engine import errors
from engine.checkpoint import TableState
from engine.contract import Applied
from engine.errors import ConfigError
from engine.ops import log
from engine.ops.gauges import gauges
from engine.ops.histogram import Histogram
from engine.ops.metric_list import METRICS, OTHER
from engine.ops.metrics import Metrics
from engine.ops.status import Status, TableStatus
from engine.ops.table_counters import MOST_TABLES, TableCounters
from engine.proof import TableProof
from engine.sandbox import SandboxUnavailable, prometheus_command
from engine.schema import TableId
from tests.support.metric_samples import OPEN_METRICS, samples
from tests.support.metrics_page import PAGE, page
from tests.support.servers import do_without
from tests.support.used_metrics import ITEM, STATUS, used, work

PROMTOOL_SECONDS = 30


# -- the list --------------------------------------------------------------------------------------


def test_every_metric_of_the_list_is_served_with_its_labels_and_meaning() -> None:
    text = used().render(OPEN_METRICS, STATUS)[0].decode()
    found = {}
    for family in text_string_to_metric_families(text):
        name = family.name + {"counter": "_total", "info": "_info"}.get(family.type, "")
        labels = {label for sample in family.samples for label in sample.labels} - {"le"}
        found[name] = (family.type, family.documentation, labels)
    assert {name: it for name, it in found.items() if name.startswith("tailrace_")} == {
        metric.name: (metric.kind, metric.meaning, {"pipeline", *metric.labels})
        for metric in METRICS
    }
    described = set(re.findall(r"`(?:rate\()?((?:process|python)_\w+)", PAGE.read_text("utf-8")))
    assert {name for name in found if not name.startswith("tailrace_")} == described


def test_the_page_has_the_list() -> None:
    text = PAGE.read_text(encoding="utf-8")
    assert page(text) == text, f"{PAGE.name} is stale: run python -m tests.support.metrics_page"


def test_promtool_accepts_the_metrics() -> None:
    try:
        command = prometheus_command("promtool")
    except SandboxUnavailable as error:
        do_without(error)
    text = used().render("text/plain", STATUS)[0]
    checked = subprocess.run(
        [*command, "check", "metrics"],
        input=text,
        capture_output=True,
        timeout=PROMTOOL_SECONDS,
        check=False,
    )
    said = checked.stdout.decode() + checked.stderr.decode()
    assert (checked.returncode, said) == (0, "")


# -- what is counted -------------------------------------------------------------------------------


def test_reported_values_are_rendered() -> None:
    shown = samples(used(), status=STATUS)
    assert shown["tailrace_rows_total{insert,shop.item}"] == 6
    assert shown["tailrace_rows_total{read,shop.item}"] == 7
    assert shown["tailrace_row_bytes_total{insert,shop.item}"] == 600
    assert shown["tailrace_table_transactions_total{insert,shop.item}"] == 4
    assert "tailrace_table_transactions_total{read,shop.item}" not in shown
    assert shown["tailrace_drift_total{shop.item}"] == 2
    assert shown["tailrace_replaced_values_total{note,nul_byte,shop.item}"] == 3
    assert shown["tailrace_transactions_total"] == 4
    assert shown["tailrace_batch_rows_sum"] == 6
    assert shown["tailrace_batch_bytes_sum"] == 600
    assert shown["tailrace_reconnects_total{sink}"] == 1
    assert shown["tailrace_reconnects_total{source}"] == 0
    assert shown["tailrace_errors_total{SourceLost}"] == 1
    assert shown["tailrace_stage_seconds_count{commit}"] == 1
    assert shown["tailrace_stage_seconds_count{read}"] == 0
    assert shown["tailrace_latency_seconds_count"] == 1
    assert shown["tailrace_up"] == 1
    assert shown["tailrace_pipeline_state{streaming}"] == 1
    assert shown["tailrace_pipeline_state{connecting}"] == 0
    assert shown["tailrace_lag_seconds"] == 1.5
    assert shown["tailrace_lag_bytes"] == 4096
    assert shown["tailrace_lag_transactions"] == 12
    assert shown["tailrace_catch_up_seconds"] == 60
    assert shown["tailrace_log_kept_seconds"] == 3600
    assert shown["tailrace_backfill_left_seconds"] == 30
    assert shown["tailrace_queued_bytes"] == 99
    assert shown["tailrace_checkpoint_age_seconds"] == 0.5
    assert shown["tailrace_dead_letters"] == 2
    assert shown["tailrace_backfill_rows{shop.item}"] == 10
    assert shown["tailrace_backfill_expected_rows{shop.item}"] == 100
    assert shown["tailrace_backfill_ratio"] == 0.1
    assert shown["tailrace_tables{backfilling}"] == shown["tailrace_tables{quarantined}"] == 1
    assert shown["tailrace_tables{live}"] == 3
    assert shown["tailrace_compared_tables{none}"] == 1
    assert shown["tailrace_compared_tables{equal}"] == 1
    assert shown["tailrace_compared_tables{different}"] == 1
    assert shown["tailrace_compared_tables{inconclusive}"] == 0
    assert shown["tailrace_different_rows{shop.b}"] == 7
    assert "tailrace_different_rows{shop.a}" not in shown
    assert shown["tailrace_proof_age_seconds"] == pytest.approx(time.time() - 50.0, abs=60.0)
    ages = {name for name in shown if name.startswith("tailrace_comparison_age_seconds")}
    assert ages == {
        f"tailrace_comparison_age_seconds{{{it}}}" for it in ("equal,shop.a", "different,shop.b")
    }
    age = shown["tailrace_comparison_age_seconds{equal,shop.a}"]
    assert age == pytest.approx(time.time() - 90.0, abs=60.0)
    assert shown["tailrace_table_quarantined{shop.part}"] == 1


def test_each_class_of_errors_is_counted_from_the_start() -> None:
    """``increase()`` of Prometheus needs a value before the first error."""
    shown = samples(Metrics("p"))
    counted = {
        name.partition("{")[2].rstrip("}"): count
        for name, count in shown.items()
        if name.startswith("tailrace_errors_total")
    }
    assert "SourceRejected" in counted
    assert counted == dict.fromkeys(set(errors.__all__) - {"TailraceError"}, 0)


def test_what_is_unknown_has_no_sample() -> None:
    shown = samples(Metrics("p"), status=Status(state="connecting", lag_seconds=1.5))
    assert shown["tailrace_up"] == 0
    assert shown["tailrace_lag_seconds"] == 1.5
    unknown = ("lag_bytes", "checkpoint_age_seconds", "backfill_ratio", "dead_letters")
    assert not {f"tailrace_{name}" for name in unknown} & shown.keys()


def test_a_stage_that_fails_is_not_measured() -> None:
    metrics = Metrics("p")
    with pytest.raises(ConfigError), metrics.stage("commit"):
        raise ConfigError("x")
    assert samples(metrics)["tailrace_stage_seconds_count{commit}"] == 0


def test_ages_are_counted_like_single_values() -> None:
    """Also on the bounds of buckets; a time in the future has the age 0."""
    bounds = (0.5, 1.0, 2.0, 8.0)
    times = [99.5, 99.0, 98.0, 92.0, 99.75, 90.0, 91.0, 101.0, 99.0]
    random.Random(1).shuffle(times)
    by_age, single = Histogram(bounds), Histogram(bounds)
    by_age.observe_ages(times, 100.0)
    for at in times:
        single.observe(max(0.0, 100.0 - at))
    assert by_age.counts == single.counts == [3, 2, 1, 1, 2]
    assert by_age.buckets() == single.buckets()
    assert by_age.buckets()[-1] == ("+Inf", 9.0)
    assert by_age.total == pytest.approx(single.total, abs=1.0)


# -- many tables -----------------------------------------------------------------------------------


def test_ten_thousand_tables_have_a_bounded_number_of_series() -> None:
    metrics = Metrics("p")
    states: tuple[TableState, ...] = ("live", "pending", "backfilling", "quarantined")
    tables = []
    for number in range(10_000):
        id = TableId("shop", f"t{number:05}")
        found = Applied({id: 1}, {(id, f"c{number}", "nul_byte"): 1})
        metrics.applied({(id, op): work(2, 20) for op in ("insert", "update", "delete")}, found)
        tables.append(TableStatus(str(id), states[number % 4], rows=1, estimate=3))
    status = Status(state="backfilling", tables=tuple(tables))
    shown = samples(metrics, status=status)
    assert len(shown) < 2_000
    assert len(metrics.render("", status)[0]) < 300_000

    def total(name: str) -> float:
        return sum(value for key, value in shown.items() if key.startswith(f"tailrace_{name}{{"))

    assert total("rows_total") == 60_000
    assert total("row_bytes_total") == 600_000
    assert total("drift_total") == total("replaced_values_total") == 10_000
    assert shown[f"tailrace_replaced_values_total{{{OTHER},nul_byte,{OTHER}}}"] == 9_900
    assert total("backfill_rows") == 5_000
    assert total("backfill_expected_rows") == 15_000
    assert total("table_quarantined") == total("tables") / 4 == 2_500
    names = {labels[0] for labels, _ in gauges(status)["tailrace_backfill_rows"]}
    assert len(names) == MOST_TABLES + 1
    assert "shop.t00002" in names  # it is backfilled now, t00001 is pending


def test_the_comparisons_that_matter_most_are_named() -> None:
    """Tables that were not found equal come first, then those whose comparison is oldest."""
    tables = tuple(
        TableStatus(f"shop.t{n:03}", "live", proof=TableProof("equal", 1000.0 + n, 2000.0))
        for n in range(MOST_TABLES + 5)
    )
    hot = TableStatus("shop.hot", "live", proof=TableProof("inconclusive", 5000.0, 5001.0))
    status = msgspec.structs.replace(STATUS, tables=(*tables, hot))
    found = dict(gauges(status)["tailrace_comparison_age_seconds"])
    assert list(found)[:2] == [("shop.hot", "inconclusive"), ("shop.t000", "equal")]
    assert len(found) == MOST_TABLES


@pytest.mark.parametrize(("equal_at", "since"), [(None, 1000.0), (1800.0, 1800.0)])
def test_a_table_that_was_never_found_equal_counts_from_its_first_comparison(
    equal_at: float | None, since: float
) -> None:
    """The alert TailraceProofOld is about it, too."""
    proof = TableProof("inconclusive", 2000.0, 2001.0, equal_at=equal_at, first_at=1000.0)
    fresh = TableProof("equal", 3000.0, 3001.0, equal_at=3000.0, first_at=500.0)
    tables = (
        TableStatus("shop.hot", "live", proof=proof),
        TableStatus("shop.t", "live", proof=fresh),
        TableStatus("shop.new", "live"),
    )
    ((_, age),) = gauges(Status(tables=tables))["tailrace_proof_age_seconds"]
    assert age == pytest.approx(time.time() - since, abs=60.0)


@pytest.mark.parametrize(("continuous", "shown"), [(False, []), (True, [((), 1.0)])])
def test_tables_that_wait_for_their_first_comparison_are_counted(
    continuous: bool, shown: list[object]
) -> None:
    """Only if the engine compares tables by itself: else nobody waits."""
    proof = TableProof("equal", 2000.0, 2001.0)
    tables = (
        TableStatus("shop.new", "live"),
        TableStatus("shop.t", "live", proof=proof),
        TableStatus("shop.later", "pending"),
    )
    found = gauges(Status(tables=tables), continuous=continuous)
    assert found["tailrace_uncompared_tables"] == shown


def test_the_busiest_tables_have_names_and_no_counter_falls() -> None:
    now = 0.0
    counters = TableCounters(most=3, clock=lambda: now)
    rng, counted = random.Random(7), 0
    before: dict[tuple[str, ...], int] = {}
    last: dict[tuple[str, ...], int] = {}
    for minute in range(30):
        for _ in range(200):
            # Which tables are busy changes all the time.
            table = TableId("s", f"t{min(9, int(rng.expovariate(0.7))) + minute // 3}")
            count = rng.randrange(1, 9)
            counters.add(table, ("rows", "insert"), count)
            counted += count
        now += 61.0
        shown = {labels: value for _, labels, value in counters.samples()}
        assert len(shown) <= 7
        for labels, value in shown.items():
            if minute and labels not in before:
                assert value == last.get(labels, 0)
            assert value >= before.get(labels, 0)
        assert shown.get((OTHER, "insert"), 0) >= before.get((OTHER, "insert"), 0)
        before = shown
        last |= shown
        assert sum(last.values()) == counted
    assert {("s.t9", "insert"), ("s.t10", "insert")} < before.keys()
    assert ("s.t0", "insert") not in before
    ids = {TableId("s", f"t{number}") for number in range(20)}
    assert sum(counters.totals(id).get(("rows", "insert"), 0) for id in ids) == counted
    assert counters.take_changed() <= ids
    assert counters.take_changed() == set()


# -- the log ---------------------------------------------------------------------------------------


def test_both_formats_carry_the_same_fields(capsys: pytest.CaptureFixture[str]) -> None:
    extra = {"pipeline": "p", "table": ITEM, "rows": 3, "error": 'a "b"'}
    log.configure("json", "info")
    logging.getLogger("tailrace.pipeline").warning("it %s", "stopped", extra=extra)
    logging.getLogger("tailrace.pipeline").debug("not shown")
    (text,) = capsys.readouterr().err.splitlines()
    line = json.loads(text)
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", line.pop("time"))
    assert line == {
        "level": "warning",
        "logger": "tailrace.pipeline",
        "message": "it stopped",
        **extra,
        "table": "shop.item",
    }
    log.configure("text", "debug")
    logging.getLogger("tailrace.pipeline").debug("shown", extra=extra)
    (text,) = capsys.readouterr().err.splitlines()
    assert text.endswith(' DEBUG   shown pipeline=p table=shop.item rows=3 error="a \\"b\\""')


def test_a_bug_is_logged_with_its_traceback(capsys: pytest.CaptureFixture[str]) -> None:
    for format in ("json", "text"):
        log.configure(format, "info")  # type: ignore[arg-type]
        try:
            raise RuntimeError("bug")
        except RuntimeError:
            logging.getLogger("tailrace").exception("stopped")
        assert "builtins.RuntimeError" in capsys.readouterr().err
