"""The directory of a supervisor: what a reload reads, and when it reads nothing."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
from pathlib import Path

import pytest
import uvloop
from starlette.requests import Request

from engine.cli.supervise import OneAtATime, Own, _obey_signals, read_directory
from engine.errors import ConfigError
from engine.ops.supervisor.processes import RELOAD_SECONDS, STOP_SECONDS, Supervisor
from engine.settings.supervisor import load_supervisor
from tests.engine.test_supervisor import Engines
from tests.support.waiting import wait_until_async


def test_a_directory_that_is_away_or_empty_is_no_list_of_pipelines(tmp_path: Path) -> None:
    """A mount that is gone leaves an empty directory, or none."""
    directory = tmp_path / "pipelines"
    with pytest.raises(ConfigError, match="cannot be read: No such file"):
        read_directory(directory)
    directory.mkdir()
    for name in ("supervisor.toml", ".draft.toml", "readme"):
        (directory / name).touch()
    with pytest.raises(ConfigError, match="has no configuration"):
        read_directory(directory)
    (directory / "shop.toml").touch()
    assert [it.name for it in read_directory(directory)] == ["shop"]


def test_sighup_logs_a_directory_that_cannot_be_read(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def reload() -> str:
        read_directory(tmp_path / "away")
        return ""

    async def work() -> None:
        ending = asyncio.Event()
        _obey_signals(Supervisor(Engines(), tmp_path), reload, ending)
        os.kill(os.getpid(), signal.SIGHUP)
        await wait_until_async(lambda: caplog.records, what="the record")
        assert not ending.is_set()

    with caplog.at_level(logging.ERROR, "tailrace.supervisor"):
        uvloop.run(work())
    assert "the directory cannot be used, the engines go on" in caplog.text


def test_reloads_at_the_same_time_are_one_after_another() -> None:
    running = 0
    outcomes = iter(["first", "second", "third"])

    async def work() -> str:
        nonlocal running
        running += 1
        assert running == 1
        await asyncio.sleep(0)
        running -= 1
        return next(outcomes)

    async def go() -> None:
        reload = OneAtATime(work)
        first = asyncio.create_task(reload())
        await asyncio.sleep(0)
        await asyncio.sleep(0)  # the first one has begun
        assert running == 1
        given_up, *others = (asyncio.create_task(reload()) for _ in range(3))
        await asyncio.sleep(0)
        given_up.cancel()
        assert await asyncio.gather(first, *others) == ["first", "second", "second"]
        assert await reload() == "third"

    asyncio.run(asyncio.wait_for(go(), 10))
    assert RELOAD_SECONDS > 2 * STOP_SECONDS


def test_a_reload_replaces_the_tokens_and_nothing_else(tmp_path: Path) -> None:
    file, secret = tmp_path / "supervisor.toml", tmp_path / "token"
    secret.write_text("old-" * 4)
    control = 'control_token = "control-control-control"\n'
    text = f'[api]\nread_token = "${{file:{secret}}}"\n{control}'

    def role(own: Own, token: str) -> str | None:
        header = (b"authorization", f"Bearer {token}".encode())
        return own.access.role(Request({"type": "http", "headers": [header]}))

    async def go() -> None:
        file.write_text(text)
        own = Own(load_supervisor(tmp_path), "127.0.0.1")
        assert await own.take(tmp_path) == ""
        secret.write_text("new-" * 4)
        assert await own.take(tmp_path) == "; the tokens are replaced"
        assert (role(own, "old-" * 4), role(own, "new-" * 4)) == (None, "read")
        assert role(own, "control-control-control") == "control"
        file.write_text("[apy]")
        assert "; supervisor.toml is not read" in await own.take(tmp_path)
        file.write_text(f"{text.replace(control, '')}max_lag_seconds = 7\n")
        said = await own.take(tmp_path)
        assert said.startswith("; the tokens are replaced; supervisor.toml has changed")
        assert role(own, "control-control-control") is None
        # Without any token, everybody on this machine could control: that needs a start.
        file.unlink()
        assert (await own.take(tmp_path)).startswith("; supervisor.toml has changed")
        assert (role(own, ""), role(own, "new-" * 4)) == (None, "read")

    asyncio.run(asyncio.wait_for(go(), 10))


def test_a_supervisor_without_tokens_gets_some_at_the_next_start(tmp_path: Path) -> None:
    own = Own(load_supervisor(tmp_path), "127.0.0.1")
    (tmp_path / "supervisor.toml").write_text('[api]\nread_token = "a-token-of-some-length"\n')
    said = asyncio.run(own.take(tmp_path))
    assert (said.startswith("; supervisor.toml has changed"), own.access.open) == (True, True)
