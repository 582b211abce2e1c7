"""Programs that Tailrace calls: none is left behind."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from pathlib import Path

import pytest
import uvloop

from engine.ops.delivery import execute
from tests.support.waiting import wait_until

#: A command with a process of its own, which waits for a file before it acts.
WAITS = (
    'sh -c "echo \\$\\$ > pid; while [ ! -e go ]; do sleep 0.02; done; touch acted"; touch ended'
)
CALLER = """
import asyncio, sys, uvloop
from engine.ops.delivery import execute
run = uvloop.run if sys.argv[2] == "uvloop" else asyncio.run
run(execute(["sh", "-c", sys.argv[1]], b"{}", {}, seconds=60.0, shown=True))
"""


@pytest.fixture(params=["asyncio", "uvloop"])
def loop(request: pytest.FixtureRequest) -> str:
    """The event loop of a command line, and that of an engine."""
    name: str = request.param
    return name


def run(loop: str, command: list[str], seconds: float = 20.0) -> str | None:
    """Why the command failed."""
    run = uvloop.run if loop == "uvloop" else asyncio.run
    failure = run(execute(command, b"body\n", {"TOLD": "this"}, seconds=seconds))
    return None if failure is None else failure.reason


def runs(pid: int) -> bool:
    """Whether a process exists that has not ended."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def pid_in(folder: Path) -> int:
    """The number of the process that the command has started."""
    file = folder / "pid"
    return int(wait_until(lambda: file.exists() and file.read_text().strip(), 10, "the command"))


def test_a_command_ends_with_its_caller(tmp_path: Path, loop: str) -> None:
    """GIVEN a command that is under way WHEN its caller is killed THEN it does not act later, when
    an abort may have undone what it is part of."""
    root = Path(__file__).parents[2]
    with subprocess.Popen(
        [sys.executable, "-c", CALLER, WAITS, loop],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(root)},
    ) as caller:
        pid = pid_in(tmp_path)
        caller.kill()
    try:
        wait_until(lambda: not runs(pid), 5, "the end of the command")
    finally:
        (tmp_path / "go").touch()
    assert not (tmp_path / "acted").exists()
    assert not (tmp_path / "ended").exists()


def test_a_command_that_takes_too_long(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, loop: str
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run(loop, ["sh", "-c", WAITS], 0.5) == "the command does not end in time"
    assert not runs(pid_in(tmp_path))


def test_what_becomes_of_a_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, loop: str
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run(loop, ["sh", "-c", 'cat > body; echo "$TOLD" >> body']) is None
    assert (tmp_path / "body").read_text() == "body\nthis\n"
    assert run(loop, ["sh", "-c", "exit 3"]) == "the command ends with status 3"
    assert run(loop, ["./missing"]) == "the command cannot be started: No such file or directory"
    # What a command leaves running on purpose goes on after it.
    assert (
        run(loop, ["sh", "-c", "(while [ ! -e go ]; do sleep 0.02; done) & echo $! > pid"]) is None
    )
    assert runs(pid_in(tmp_path))
    (tmp_path / "go").touch()
    wait_until(lambda: not runs(pid_in(tmp_path)), 5, "the end of what was left")
