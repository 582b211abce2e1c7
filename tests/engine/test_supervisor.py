"""The supervisor: the process table with processes of a few lines, and the merged metrics."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest
import uvloop
from prometheus_client.openmetrics.parser import text_string_to_metric_families as open_metrics
from prometheus_client.parser import text_string_to_metric_families

from engine.errors import ConfigError
from engine.ops.metrics import Metrics
from engine.ops.supervisor import processes
from engine.ops.supervisor.merging import merged
from engine.ops.supervisor.processes import Found, Supervisor
from engine.ops.supervisor.status import ProcessStatus
from engine.settings.loader import RetrySettings
from tests.support.metric_samples import OPEN_METRICS
from tests.support.waiting import wait_until_async

#: An engine that runs until its supervisor ends it.
RUNS = "import time; time.sleep(60)"
#: One that takes SIGTERM for nothing.
STUBBORN = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(60)"
#: A name with what must be escaped, and what other formats take for the end of a line.
OTHER = 'b"\\\u2028\x85\x0b\x1cc'
QUICK = RetrySettings(first_seconds=0.02, max_seconds=0.05)


class Engines:
    """Processes that run the Python code of their file."""

    def __init__(self) -> None:
        self.silent = False
        self.started = 0
        self.others_run = False

    def command(self, file: Path, api: Path) -> tuple[str, ...]:
        self.started += 1
        return (sys.executable, "-I", "-S", "-c", file.read_text())

    async def answers(self, api: Path) -> bool:
        return not self.silent

    async def vacant(self, found: Found) -> bool:
        return not self.others_run


class Table:
    """A supervisor of files in a folder, whose settings are their code."""

    def __init__(self, folder: Path, **files: str) -> None:
        self.folder, self.engines = folder, Engines()
        self.supervisor = Supervisor(self.engines, folder, restarts=QUICK)
        self.write(**files)

    def write(self, **files: str) -> None:
        for name, code in files.items():
            (self.folder / f"{name}.toml").write_text(code)

    async def apply(self, **names: str) -> str:
        """Apply the files; ``names`` are those of pipelines that differ from their files'."""
        found = []
        for file in sorted(self.folder.glob("*.toml")):
            code, name = file.read_text(), names.get(file.stem, file.stem)
            if code == "broken":
                found.append(Found(file, file.stem, problem=ConfigError("a mistake", hint="mend")))
            else:
                found.append(Found(file, name, code))
        return await self.supervisor.apply(found)

    def __getitem__(self, name: str) -> ProcessStatus:
        return next(it for it in self.supervisor.statuses() if it.pipeline == name)

    async def wait(self, condition: Callable[[], object]) -> None:
        await wait_until_async(condition, timeout=30, what=f"{self.supervisor.statuses()}")


def run(work: Callable[[Table], Coroutine[Any, Any, None]], folder: Path, **files: str) -> None:
    """Run ``work`` with a supervisor, which is stopped in the end."""

    async def go() -> None:
        table = Table(folder, **files)
        try:
            await work(table)
        finally:
            await table.supervisor.stop()
        assert [it for it in table.supervisor.statuses() if it.pid is not None] == []

    uvloop.run(asyncio.wait_for(go(), 60))


def ends(status: int, words: str = "") -> str:
    """The code of an engine that ends with a status, and tells the supervisor why."""
    return f"import os, sys; os.write(0, {words.encode()!r}); sys.exit({status})"


def test_what_follows_from_the_end_of_an_engine(tmp_path: Path) -> None:
    async def work(table: Table) -> None:
        table.engines.others_run = True
        await table.apply()
        await table.wait(lambda: table["fails"].restarts >= 2)
        assert table["fails"].message == "lost"
        assert table["fails"].remedy == "look"
        for name, state in {
            "done": "ended",
            "partial": "ended",
            "wrong": "configuration error",
            "fenced": "standing by",
        }.items():
            await table.wait(lambda name=name, state=state: table[name].process == state)
            assert table[name].restarts == 0
        assert "exit status 2" in table["wrong"].message
        assert "dead letters" in table["partial"].message
        await table.wait(lambda: table["killed"].restarts > 0)
        assert table["killed"].message == "the process was killed by SIGKILL"
        # The error of a run before is not the reason of this end.
        await table.wait(lambda: table["later"].process == "ended")
        assert (table["later"].restarts, table["later"].message) == (1, "")

    marker = tmp_path / "marker"
    code = "import os, sys; from pathlib import Path; it = Path({!r}); it.exists() and sys.exit(0)"
    later = f"{code.format(str(marker))}; it.touch(); os.kill(os.getpid(), 9)"
    lost = '{"message": "lost", "remedy": "look"}'
    files = {"done": ends(0), "partial": ends(3), "wrong": ends(2), "fenced": ends(4)}
    killed = "import os; os.kill(os.getpid(), 9)"
    run(work, tmp_path, fails=ends(1, lost), killed=killed, later=later, **files)


def test_what_a_reload_does(tmp_path: Path) -> None:
    async def work(table: Table) -> None:
        assert await table.apply() == (
            "started: changes, done, goes, stays; d.toml cannot be used: a mistake"
        )
        assert (table["d"].process, table["d"].remedy) == ("configuration error", "mend")
        await table.wait(lambda: table["done"].process == "ended")
        for name in ("changes", "goes", "stays"):
            await table.wait(lambda name=name: table[name].pid is not None)
        before = {name: table[name].pid for name in ("changes", "stays")}
        (table.folder / "goes.toml").unlink()
        table.write(new=RUNS, changes=f"{RUNS} #", d=RUNS)
        outcome = await table.apply()
        assert outcome == "started: new; started anew: changes, d, done; stopped: goes"
        await table.wait(lambda: table["changes"].pid not in (None, before["changes"]))
        assert table["stays"].pid == before["stays"]

        # A mistake does not stop what runs.
        table.write(stays="broken")
        assert await table.apply() == "started anew: done; stays.toml cannot be used: a mistake"
        assert table["stays"].pid == before["stays"]

    run(work, tmp_path, changes=RUNS, stays=RUNS, goes=RUNS, done=ends(0), d="broken")


def test_a_stop_during_a_reload_starts_nothing(tmp_path: Path) -> None:
    async def work(table: Table) -> None:
        await table.apply()
        await table.wait(lambda: table["shop"].pid is not None)
        table.write(shop=f"{RUNS} #", new=RUNS)
        reload = asyncio.create_task(table.apply())
        await asyncio.sleep(0)  # the reload waits for the engine now
        await table.supervisor.stop()
        assert await reload == "the pipelines are being stopped"
        assert table.engines.started == 1
        assert [it.process for it in table.supervisor.statuses()] == ["ended"]

    run(work, tmp_path, shop=RUNS)


def test_two_files_have_one_name(tmp_path: Path) -> None:
    async def work(table: Table) -> None:
        await table.apply(b="shop")
        await table.wait(lambda: table["shop"].pid is not None)
        table.write(a=RUNS)
        await table.apply(a="shop", b="shop")
        assert table["shop"].file.endswith("b.toml")  # it keeps its name
        assert table["a.toml"].process == "configuration error"
        assert "that of b.toml, too: shop" in table["a.toml"].message
        (table.folder / "b.toml").unlink()
        await table.apply(a="shop")
        assert table["shop"].file.endswith("a.toml")

    run(work, tmp_path, b=RUNS)


def test_an_engine_that_does_not_end_or_answer_is_killed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(processes, "STOP_SECONDS", 0.3)
    monkeypatch.setattr(processes, "PROBE_SECONDS", 0.02)
    monkeypatch.setattr(processes, "SILENT_SECONDS", 0.2)

    async def work(table: Table) -> None:
        await table.apply()
        await table.wait(lambda: table["stubborn"].pid is not None)
        table.engines.silent = True
        await table.wait(lambda: table["stubborn"].restarts > 0)
        assert table["stubborn"].message == "the process was killed by SIGKILL"
        table.engines.silent = False
        await table.wait(lambda: table["stubborn"].pid is not None)

    run(work, tmp_path, stubborn=STUBBORN)


def test_a_fenced_engine_goes_on_when_the_newer_one_is_gone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(processes, "STANDBY_SECONDS", 0.02)
    again = tmp_path / "again"
    code = f"import os, sys, time; os.path.exists({str(again)!r}) or sys.exit(4); time.sleep(60)"

    async def work(table: Table) -> None:
        table.engines.others_run = True
        await table.apply()
        await table.wait(lambda: table["shop"].process == "standing by")
        assert await table.apply() == "nothing has changed"
        assert table["shop"].process == "standing by"
        again.touch()
        table.engines.others_run = False
        await table.wait(lambda: table["shop"].process == "running")

    run(work, tmp_path, shop=code)


def test_engines_have_no_variables_of_systemd(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
    code = "import os, sys; sys.exit(2 if 'NOTIFY_SOCKET' in os.environ else 0)"

    async def work(table: Table) -> None:
        await table.apply()
        await table.wait(lambda: table["shop"].exit_status is not None)
        assert table["shop"].exit_status == 0
        assert "NOTIFY_SOCKET" in os.environ

    run(work, tmp_path, shop=code)


def test_the_metrics_of_all_engines() -> None:
    for accept, parse in (("", text_string_to_metric_families), (OPEN_METRICS, open_metrics)):
        texts = {name: Metrics(name).render(accept)[0].decode() for name in ("a", OTHER)}
        families = list(parse(merged({**texts, "silent": None})))
        names = [family.name for family in families]
        assert sorted(names) == sorted(set(names))
        for family in families:
            found = {sample.labels["pipeline"] for sample in family.samples}
            if family.samples:
                silent = {"silent"} if family.name == "tailrace_up" else set()
                assert found == {"a", OTHER} | silent, family.name
    alone = merged({"silent": None})
    assert alone.endswith('tailrace_up{pipeline="silent"} 0.0\n')
    assert [it.name for it in text_string_to_metric_families(alone)] == ["tailrace_up"]
