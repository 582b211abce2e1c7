"""
The lag that an engine reports is the true one, within 10 %: while source or target are away or
busy for known times, while nothing happens, and while it catches up.

Truth is measured without the engine (``tests.support.lag``).
"""

from __future__ import annotations

import time
import urllib.request
from collections.abc import Callable
from pathlib import Path

import psycopg
import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families

from engine.pipeline.counters import OVERDUE
from tests.support.engine_process import EngineProcess
from tests.support.lag import HEARTBEAT_SECONDS, INSERT, UNSURE_SECONDS, Followed, Rig
from tests.support.metric_samples import OPEN_METRICS
from tests.support.servers import AnyServer
from tests.support.waiting import wait_until

AWAY_SECONDS = 2.0
SMALL_BATCHES = "[batch]\nmax_rows = 50\nqueue_bytes = 40_000\n"


def metrics(engine: EngineProcess, *names: str) -> dict[str, float]:
    """The samples of metrics whose names begin so, with the bounds of buckets."""
    request = urllib.request.Request(
        f"http://127.0.0.1:{engine.port}/metrics", headers={"Accept": OPEN_METRICS}
    )
    with urllib.request.urlopen(request, timeout=10) as answer:
        families = text_string_to_metric_families(answer.read().decode())
    return {
        it.name + it.labels.get("le", ""): it.value
        for family in families
        if family.name.startswith(tuple(f"tailrace_{name}" for name in names))
        for it in family.samples
    }


def test_the_lag_is_true(
    mysql: AnyServer, follow: Callable[[AnyServer], Followed], tmp_path: Path
) -> None:
    followed = follow(mysql)
    with followed.engine(tmp_path) as engine, followed.rig(engine) as rig:
        rig.steady.start()
        began = time.time()
        wait_until(rig.lasting(1.0))
        with psycopg.connect(followed.url) as blocker:
            blocker.execute(f"LOCK TABLE {followed.table} IN EXCLUSIVE MODE")
            wait_until(rig.lasting(AWAY_SECONDS))
        wait_until(rig.lasting(0.5))
        followed.target.freeze()
        wait_until(rig.lasting(AWAY_SECONDS))
        followed.target.thaw()
        wait_until(rig.lasting(0.5))
        frozen = time.time()
        followed.source.freeze()
        wait_until(rig.lasting(2 * HEARTBEAT_SECONDS))
        thawed = time.time()
        followed.source.thaw()
        wait_until(rig.lasting(0.5))
        rig.steady.stop()
        wait_until(lambda: rig.level)
        ended = time.time()
        assert rig.wrong(began, frozen) == []
        # That a source is away shows when its heartbeat is overdue.
        overdue = frozen + OVERDUE * HEARTBEAT_SECONDS + UNSURE_SECONDS
        assert rig.wrong(frozen, ended, unknown_until=overdue) == []
        assert len(rig.reported(overdue, thawed)) > 10
        assert len(rig.reported(began, ended)) > 100

        latencies = rig.latencies()
        assert sum(it > AWAY_SECONDS / 2 for it in latencies) > 100
        wait_until(
            lambda: metrics(engine, "latency")["tailrace_latency_seconds_count"] == len(latencies)
        )
        found = metrics(engine, "latency")
        assert found["tailrace_latency_seconds_sum"] == pytest.approx(sum(latencies), rel=0.1)
        for bound in (0.5, 1.0):
            # A latency that is near the bound may count on either side.
            share = [sum(it <= bound * more for it in latencies) for more in (0.9, 1.1)]
            bucket = found[f"tailrace_latency_seconds_bucket{bound}"]
            assert share[0] * 0.9 <= bucket <= share[1] * 1.1

        the_lag_of_a_level_target_is_0(followed, engine, rig)
        the_lag_of_a_row_behind_a_commit_that_hangs_is_its_own(followed, engine, rig)


def the_lag_of_a_level_target_is_0(followed: Followed, engine: EngineProcess, rig: Rig) -> None:
    """Also while only other tables change, up to the time between two reports of the source."""
    engine.wait_status(lambda it: it["lag_seconds"] == 0)
    began, over = time.time(), rig.lasting(2.5)
    while not over():
        followed.other("INSERT INTO u VALUES (1)")
    passed = time.time()
    lags = [it.lag_seconds for it in rig.reported(began, passed)]
    assert len(lags) > 20
    assert all(lag is not None and lag < 1.0 + UNSURE_SECONDS for lag in lags)
    engine.wait_status(lambda it: it["lag_seconds"] == 0)
    idle = time.time()
    wait_until(rig.lasting(1.2 * HEARTBEAT_SECONDS))
    assert {it.lag_seconds for it in rig.reported(idle, time.time())} == {0.0}


def the_lag_of_a_row_behind_a_commit_that_hangs_is_its_own(
    followed: Followed, engine: EngineProcess, rig: Rig
) -> None:
    """GIVEN a target that stops answering while an idle engine stores its position WHEN the source
    commits a row THEN the lag is the age of this row, at once.
    """
    engine.wait_status(lambda it: it["lag_seconds"] == 0)
    rig.steady.step()
    wait_until(lambda: rig.level)
    followed.target.freeze()
    # The position of the heartbeat that follows is stored a second later.
    engine.wait_status(lambda it: it["checkpoint_age_seconds"] > 1.5 and it["lag_seconds"] == 0)
    began = time.time()
    rig.steady.step()
    wait_until(rig.lasting(1.0))
    ended = time.time()
    assert rig.wrong(began, ended) == []
    assert (lag := rig.reported(began, ended)[-1].lag_seconds)
    assert lag > 0.8
    shown = metrics(engine, "lag", "log_kept")
    assert shown["tailrace_lag_seconds"] == pytest.approx(lag + time.time() - ended, abs=0.3)
    assert shown["tailrace_lag_transactions"] == 1
    assert shown["tailrace_lag_bytes"] > 0
    assert shown["tailrace_log_kept_seconds"] > 3600
    followed.target.thaw()
    engine.wait_status(lambda it: it["lag_seconds"] == 0)


@pytest.mark.slow
def test_the_times_of_mariadb_are_those_of_statements_in_whole_seconds(
    mariadb_11: AnyServer, follow: Callable[[AnyServer], Followed], tmp_path: Path
) -> None:
    """The lag and the latency are never too small, and too long by no more than that."""
    followed = follow(mariadb_11)
    with followed.engine(tmp_path) as engine, followed.rig(engine) as rig:
        began = time.time()
        rig.steady.start()
        wait_until(rig.lasting(1.0))
        with psycopg.connect(followed.url) as blocker:
            blocker.execute(f"LOCK TABLE {followed.table} IN EXCLUSIVE MODE")
            wait_until(rig.lasting(AWAY_SECONDS))
        wait_until(rig.lasting(0.5))
        rig.steady.stop()
        wait_until(lambda: rig.level)
        assert rig.wrong(began, time.time(), early_seconds=1.0) == []
        engine.wait_status(lambda it: it["lag_seconds"] == 0)
        before = metrics(engine, "latency")
        followed.writer(f"INSERT INTO t (v) SELECT sleep({AWAY_SECONDS})")
        name = "tailrace_latency_seconds"
        wait_until(
            lambda: metrics(engine, "latency")[f"{name}_count"] == before[f"{name}_count"] + 1
        )
        latency = metrics(engine, "latency")[f"{name}_sum"] - before[f"{name}_sum"]
        assert AWAY_SECONDS <= latency < AWAY_SECONDS + 1.0 + 2 * UNSURE_SECONDS


#: The time that the target takes for a row, the rows that wait when it can go on, and how often
#: one is added: about 180 fewer in each second.
ROW_SECONDS, BACKLOG, ADDED_SECONDS = 0.004, 7000, 0.02
SLOW = """
CREATE FUNCTION slowly() RETURNS trigger LANGUAGE plpgsql AS
    $$ BEGIN PERFORM pg_sleep({seconds}); RETURN new; END $$;
CREATE TRIGGER slowly BEFORE INSERT ON {table} FOR EACH ROW EXECUTE FUNCTION slowly();
ALTER TABLE {table} ENABLE ALWAYS TRIGGER slowly
"""


@pytest.mark.slow
@pytest.mark.timeout(240)
def test_the_estimate_is_when_the_target_is_level(
    mysql: AnyServer, follow: Callable[[AnyServer], Followed], tmp_path: Path
) -> None:
    """GIVEN a target that takes a known time for each row and was locked WHEN it catches up with a
    source that goes on writing THEN the estimate at each moment is when it really is level.
    """
    followed = follow(mysql)
    with (
        followed.engine(tmp_path, SMALL_BATCHES) as engine,
        followed.rig(engine, ADDED_SECONDS) as rig,
        psycopg.connect(followed.url, autocommit=True) as target,
    ):
        slow = SLOW.format(seconds=ROW_SECONDS, table=followed.table)
        for statement in slow.split(";\n"):
            target.execute(statement)
        with target.transaction():
            target.execute(f"LOCK TABLE {followed.table} IN EXCLUSIVE MODE")
            for _ in range(BACKLOG // 100):
                before = time.time()
                followed.writer(";".join([INSERT] * 100))
                rig.steady.commits += [(before, time.time())] * 100
            rig.steady.start()
            wait_until(rig.lasting(7.0))
        begun = time.time()
        estimates: list[tuple[float, float]] = []
        while not rig.level:
            status = engine.status()
            if status is not None and status["catch_up_seconds"]:
                estimates.append((time.time(), status["catch_up_seconds"]))
            wait_until(rig.lasting(0.2))
        level = time.time()
        assert rig.wrong(begun, level) == []
        assert level - begun > 25
        asked = [(level - at, left) for at, left in estimates if level - at > 3.0]
        assert max(left for left, _ in asked) > (level - begun) / 2
        # A second is what counts as level.
        assert [it for it in asked if abs(it[1] - it[0]) > 0.1 * it[0] + 1.0] == []
