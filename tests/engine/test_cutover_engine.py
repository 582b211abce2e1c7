"""A cutover ends the engine: it is gone when that is recorded."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

from engine.cli import cutover_engine
from engine.cli.cutover_engine import end_engine
from engine.commands import StoredCommand
from engine.errors import TailraceError


class Client:
    """The commands in the target. At each look at the engine the next of ``acts`` happens."""

    def __init__(self, *acts: Callable[[Client], None], runs: bool = True) -> None:
        self.runs = runs
        self.acts = list(acts)
        self.commands: list[StoredCommand] = []

    async def submit(self, command: str, by: str) -> int:
        self.commands.append(StoredCommand(len(self.commands), command, by, 1.0))
        return len(self.commands) - 1

    async def find(self, id: int) -> StoredCommand | None:
        return self.commands[id]

    async def cancel(self, id: int, outcome: str) -> bool:
        return False

    async def newest(self, count: int) -> list[StoredCommand]:
        return self.commands

    async def engine_runs(self) -> bool:
        if self.acts:
            self.acts.pop(0)(self)
        return self.runs

    def conclude(self, outcome: str, *, refused: bool = False) -> None:
        last = self.commands[-1]
        self.commands[-1] = StoredCommand(last.id, last.command, last.by, 1.0, outcome, refused)


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cutover_engine, "POLL_SECONDS", 0.005)
    monkeypatch.setattr(cutover_engine, "ENDED_SECONDS", 0.1)


def nothing(_: Client) -> None:
    """The engine goes on."""


def dies(client: Client) -> None:
    client.runs = False


def restarts(client: Client) -> None:
    """A new engine refuses the command that is older than it."""
    client.runs = True
    client.conclude("no engine ran when the command was given", refused=True)


def executes(client: Client) -> None:
    client.conclude("the engine ends")


def comes_back(client: Client) -> None:
    client.runs = True


def end(client: Client, seconds: float = 20.0) -> str:
    return asyncio.run(end_engine(client, seconds=seconds, gone_seconds=0.1))


def test_an_engine_that_ends() -> None:
    client = Client(nothing, executes, nothing, dies)
    assert end(client) == "the engine has ended"
    assert (client.runs, len(client.commands)) == (False, 1)


def test_no_engine() -> None:
    client = Client(runs=False)
    assert end(client) == "no engine is connected to the target any more"
    assert client.commands == []


@pytest.mark.parametrize("acts", [(nothing, dies, restarts), (nothing, restarts)])
def test_an_engine_that_refuses_is_told_again(acts: tuple[Callable[[Client], None], ...]) -> None:
    """GIVEN an engine that dies before it executes the command WHEN systemd starts it again, and
    it refuses the older command; or somebody cancels that THEN it gets another one."""
    client = Client(*acts, nothing, executes, dies)
    assert end(client) == "the engine has ended"
    assert (client.runs, len(client.commands)) == (False, 2)


def test_an_engine_that_reconnects_is_not_gone() -> None:
    client = Client(nothing, dies, nothing, comes_back, nothing, executes, dies)
    assert end(client) == "the engine has ended"
    assert (client.acts, client.runs) == ([], False)


def test_an_engine_that_is_started_again_after_it_has_ended() -> None:
    client = Client(nothing, executes, dies, nothing, comes_back, nothing, executes, dies)
    assert end(client) == "the engine has ended"
    assert (client.acts, client.runs, len(client.commands)) == ([], False, 2)


def test_an_engine_that_does_not_end() -> None:
    with pytest.raises(TailraceError, match=r"has not ended within 0\.3 s"):
        end(Client(), seconds=0.3)
