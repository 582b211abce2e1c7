"""
The demo's shop is moved under its writer: nothing is lost or repeated, whatever kills the cutover,
and its software is away for seconds.
"""

from __future__ import annotations

import json
import signal
import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from engine.cli.main import main
from engine.demo.mirrored import MirroredShop
from engine.demo.shop import remove_application
from engine.demo.writer import WriterCounts
from engine.ops.status import Status
from tests.support.cutovers import RECORDED, STEPS, killed_at, record, thawed_at_the_end
from tests.support.servers import AnyServer
from tests.support.shops import Shop
from tests.support.targets import Fresh
from tests.support.waiting import wait_until

ROWS = 20_000
#: The process of the cutover is killed by its own hook, when the applications are switched already.
KILLED_BY_THE_HOOK = "test -e killed || { touch killed; kill -9 $PPID; }\n"

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(300),
    pytest.mark.parametrize("target", ["postgres_15", "postgres_18"]),
    pytest.mark.parametrize("source", ["mysql", "mariadb_10", "mariadb_11"]),
]

Writes = Callable[[], dict[str, str]]


@pytest.fixture
def server(source: str, request: pytest.FixtureRequest) -> AnyServer:
    found: AnyServer = request.getfixturevalue(source)
    return found


@pytest.fixture
def moved(
    server: AnyServer,
    target: str,
    request: pytest.FixtureRequest,
    new_shop: Callable[[AnyServer, int], Shop],
    fresh_postgres_database: Fresh,
    tmp_path: Path,
) -> Iterator[tuple[MirroredShop, Writes]]:
    """A shop under its writer, which was mirrored, completed and found equal, and what the source
    says of writes.
    """
    shop = new_shop(server, ROWS)
    there = fresh_postgres_database(request.getfixturevalue(target))
    with ExitStack() as stack:
        stack.callback(remove_application, shop.url)
        writes = stack.enter_context(thawed_at_the_end(server))
        made = stack.enter_context(MirroredShop(shop.url, there, tmp_path, chunk_rows=2000))
        made.engine.start()
        wait_until(lambda: is_live(made.engine.status()), timeout=120, what="live tables")
        made.writer.migrate()
        wait_until(lambda: made.writer.counts.schema_changes, what="the migration")
        made.complete_schema()
        assert made.verify().equal
        yield made, writes


def is_live(status: Status | None) -> bool:
    tables = () if status is None else status.tables
    return bool(tables) and all(table.state == "live" for table in tables)


def writes_on(shop: MirroredShop, *, new: bool) -> bool:
    """Whether the software writes, on the new side or the old one."""
    counts = shop.writer.counts

    def more(now: WriterCounts) -> bool:
        return now.new > counts.new if new else now.transactions > counts.transactions

    wait_until(lambda: more(shop.writer.counts), what="transactions")
    return True


def assert_nothing_lost(shop: MirroredShop) -> None:
    """The software ends. Fail unless the target has each transaction of both sides once."""
    shop.engine.wait_ended()
    assert writes_on(shop, new=True)
    assert shop.count().applied > shop.writer.counts.transactions, "no transaction is committed"
    written = shop.writer.stop()
    found = shop.count()
    assert found.differences == []
    assert (found.applied, found.distinct) == (written.transactions + written.new,) * 2
    assert written.rows["customers"]


def called(shop: MirroredShop) -> list[str]:
    """The ids with which the hook was called to switch the software."""
    return [line.split()[1] for line in shop.called.read_text().splitlines()]


def test_a_cutover_that_is_killed_in_every_state(moved: tuple[MirroredShop, Writes]) -> None:
    """GIVEN a cutover that was killed in its abort, too, and one that is killed in each state,
    when the source has just been frozen, and by the hook that has switched the software WHEN it is
    typed again THEN each transaction is there once, and the software was switched once."""
    shop, writes = moved
    before = writes()
    shop.rehearse()
    assert writes() == before
    assert writes_on(shop, new=False)

    killed_at(shop.config, "verify")
    wait_until(lambda: shop.writer.counts.refused, what="a refused writer")
    killed_at(shop.config, "abort", "--abort")
    assert record(shop.target)["state"] in ("verify", "abort", "aborted")
    if record(shop.target)["state"] != "aborted":
        shop.cut_over("--abort")
    assert writes() == before
    assert writes_on(shop, new=False)

    frozen = subprocess.Popen(shop.command("cutover"), cwd=shop.folder, stdout=subprocess.PIPE)
    wait_until(lambda: writes()["read_only"] == "ON", what="the freeze")
    frozen.kill()
    frozen.communicate(timeout=10)
    assert record(shop.target)["state"] == "freeze"
    for step in STEPS[1:-1]:
        killed_at(shop.config, step)
        assert record(shop.target)["state"] == step
    hook = shop.folder / "switch-shop"
    hook.write_text(hook.read_text() + KILLED_BY_THE_HOOK)
    switching = subprocess.run(
        shop.command("cutover"), cwd=shop.folder, capture_output=True, timeout=60, check=False
    )
    assert switching.returncode == -signal.SIGKILL, switching
    assert record(shop.target)["state"] == "switch"
    assert writes_on(shop, new=True)
    killed_at(shop.config, "stop")
    done = shop.cut_over()
    assert (done.state, [it.step for it in done.steps]) == ("done", list(RECORDED))
    # The command that was killed at the switch may have called the hook just before.
    assert called(shop) in ([done.id] * 2, [done.id] * 3)
    assert writes()["read_only"] == "ON"
    assert_nothing_lost(shop)


def test_the_downtime_is_seconds_and_predicted(
    moved: tuple[MirroredShop, Writes], capsys: pytest.CaptureFixture[str]
) -> None:
    """GIVEN a rehearsed cutover WHEN it is done THEN the software was away for less than 5 s, about
    as long as predicted, and the report tells it, with a seal."""
    shop, _ = moved
    shop.rehearse()
    page, document = shop.folder / "cutover.html", shop.folder / "cutover.json"
    done = shop.cut_over("--report", str(page), "--report", str(document))
    assert_nothing_lost(shop)
    downtime, predicted = done.downtime_seconds, done.predicted_seconds
    away = shop.writer.counts.away_seconds
    assert downtime is not None
    assert predicted is not None
    assert away is not None
    with capsys.disabled():
        print(f"\n  downtime {downtime:.2f} s, predicted {predicted:.2f} s, away {away:.2f} s")
    assert downtime < 5
    assert away < 5
    assert predicted / 3 < downtime < 3 * predicted
    content: dict[str, Any] = json.loads(document.read_text())["content"]
    assert content["outcome"] == "switched"
    assert content["downtime_milliseconds"] == round(1000 * downtime)
    assert [it["step"] for it in content["steps"]] == list(RECORDED)
    assert len(content["tables"]) == 14
    assert any("zero dates that became NULL" in str(it["replaced"]) for it in content["tables"])
    for file in (page, document):
        assert main(["report", "verify", str(file)]) == 0
