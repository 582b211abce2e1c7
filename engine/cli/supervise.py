"""
``tailrace run DIRECTORY``: a supervisor of the pipelines of a directory, and the commands to it.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import os
import signal
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Coroutine, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

import msgspec
import uvloop

from engine.cli.wiring import (
    load_settings,
    make_mapping,
    make_sink,
    make_source,
    version_and_codecs,
)
from engine.commands import CommandStore
from engine.errors import ConfigError, TailraceError
from engine.ops import log
from engine.ops.background import meanwhile
from engine.ops.service_manager import as_service
from engine.ops.supervisor.processes import Found, Supervisor
from engine.remedies import remedy_of
from engine.settings.api import ApiSettings, parse_listen
from engine.settings.loader import Settings
from engine.settings.supervisor import FILE, SupervisorSettings, load_supervisor

if TYPE_CHECKING:
    from engine.ops.access import Access
    from engine.ops.server import HttpServer
    from engine.ops.supervisor.engines import EngineApis

__all__ = ["Own", "read_directory", "supervise"]

Reload: TypeAlias = "Callable[[], Coroutine[None, None, str]]"

logger = logging.getLogger("tailrace.supervisor")

#: How long the target may take to tell whether an engine is connected.
VACANT_SECONDS = 10.0


def supervise(options: argparse.Namespace) -> int:
    """Run the pipelines of a directory until stopped."""
    directory: Path = options.config
    if options.until_caught_up:
        raise ConfigError(
            "--until-caught-up is for one pipeline", hint="name the configuration of one pipeline"
        )
    settings = load_supervisor(directory)
    format = options.log_format or settings.log.format
    log.configure(format, settings.log.level)
    version, codecs = version_and_codecs()
    logger.info("starting", extra={"version": version, "codecs": codecs})
    _configurations(directory)
    uvloop.run(_supervise(directory, settings, options.listen or settings.listen, format))
    return 0


async def _supervise(
    directory: Path, settings: SupervisorSettings, listen: str, format: str
) -> None:
    from engine.ops.supervisor.engines import EngineApis

    ending = asyncio.Event()
    own = Own(settings, parse_listen(listen)[0])
    with tempfile.TemporaryDirectory(prefix="tailrace-") as folder:
        apis = EngineApis()
        supervisor = Supervisor(_Engines(apis, format), Path(folder))

        async def read() -> str:
            found = await asyncio.to_thread(read_directory, directory)
            outcome = await supervisor.apply(found)
            outcome += await own.take(directory)
            logger.info("the directory is read", extra={"outcome": outcome})
            return outcome

        reload = OneAtATime(read)
        server = _make_server(settings.api, own.access, listen, supervisor, apis, reload, ending)
        async with server, meanwhile(log.write_repeats()):
            _obey_signals(supervisor, reload, ending)
            try:
                await reload()
                async with as_service(lambda: _in_words(supervisor)):
                    await ending.wait()
                    await supervisor.stop()
            finally:
                await supervisor.stop()
                await apis.close()
                log.write_held()


def _in_words(supervisor: Supervisor) -> str:
    """The number of pipelines by the state of their process."""
    states = Counter(it.process for it in supervisor.statuses())
    return ", ".join(f"{count} {state}" for state, count in states.items()) + "."


class Own:
    """What of ``supervisor.toml`` holds: of the settings of the start, the tokens are replaced by a
    reload. Whether a token is needed at all is decided at the start.
    """

    def __init__(self, settings: SupervisorSettings, host: str) -> None:
        from engine.ops.access import Access

        self._settings = settings
        self.access = Access(settings.api, host)

    async def take(self, directory: Path) -> str:
        """Read the file again. Returns what a reload says of it."""
        try:
            found = await asyncio.to_thread(load_supervisor, directory)
        except ConfigError as error:
            return f"; {FILE} is not read: {error.message}"
        if found == self._settings:
            return ""
        said = ""
        tokens = {it: getattr(found.api, it) for it in ("read_token", "control_token")}
        with_tokens = msgspec.structs.replace(
            self._settings, api=msgspec.structs.replace(self._settings.api, **tokens)
        )
        if with_tokens != self._settings and any(tokens.values()) and not self.access.open:
            self.access.replace_tokens(found.api)
            self._settings = with_tokens
            said = "; the tokens are replaced"
        if found != self._settings:
            said += f"; {FILE} has changed, which takes effect at the next start of the supervisor"
        return said


class OneAtATime:
    """Does the same work at most once at a time. Calls that wait for its next start are one."""

    def __init__(self, work: Reload) -> None:
        self._work = work
        self._lock = asyncio.Lock()
        self._next: asyncio.Task[str] | None = None

    async def __call__(self) -> str:
        """The outcome of work that begins after the call."""
        if self._next is None:
            self._next = asyncio.create_task(self._run())
        # A call that is given up does not end the work of the others.
        return await asyncio.shield(self._next)

    async def _run(self) -> str:
        async with self._lock:
            self._next = None
            return await self._work()


class _Engines:
    """The engines of configurations: how they are started, and what is asked of them."""

    def __init__(self, apis: EngineApis, format: str) -> None:
        self._format = format
        self.answers = apis.answers

    def command(self, file: Path, api: Path) -> Sequence[str]:
        """``tailrace run``, without the modules of the current folder."""
        return (
            *(sys.executable, "-P", "-m", "engine.cli", "run", str(file)),
            *("--supervised", str(api), "--log-format", self._format, "--no-progress"),
        )

    async def vacant(self, found: Found) -> bool:
        """Whether the target keeps commands, and no engine is connected to it."""
        assert isinstance(found.settings, Settings)
        sink = make_sink(found.settings)
        if not isinstance(sink, CommandStore):
            return False
        with suppress(TailraceError, TimeoutError):
            async with asyncio.timeout(VACANT_SECONDS), sink.command_client() as client:
                return not await client.engine_runs()
        return False


def _configurations(directory: Path) -> list[Path]:
    """The configurations of pipelines in a directory. Raises ConfigError if it cannot be read, or
    has none, as a mount point has while nothing is mounted there.
    """
    try:
        with os.scandir(directory) as entries:
            names = sorted(it.name for it in entries)
    except OSError as error:
        raise ConfigError(
            f"{directory} cannot be read: {error.strerror or type(error).__name__}",
            hint="is it mounted, and may the user of this process read it?",
        ) from error
    found = [it for it in names if it.endswith(".toml") and it != FILE and it[0] != "."]
    if not found:
        raise ConfigError(
            f"{directory} has no configuration",
            hint="write one for each pipeline, as NAME.toml; `tailrace init SOURCE TARGET` helps."
            " `tailrace stop` ends a supervisor that has none any more",
        )
    return [directory / it for it in found]


def read_directory(directory: Path) -> list[Found]:
    """The configurations of a directory, each with its settings or its mistake. Blocks. Raises
    ConfigError if the directory cannot be read, or has none.
    """
    return [_found(file) for file in _configurations(directory)]


def _found(file: Path) -> Found:
    try:
        settings = load_settings(file)
        for make in (make_source, make_sink, make_mapping):
            make(settings)
        name = settings.pipeline.name
        if "/" in name or name in (".", ".."):
            raise ConfigError(
                f"{file}: the name of the pipeline is no part of a URL: {name}",
                hint="write a name without a slash into [pipeline], or run this pipeline alone",
            )
    except TailraceError as error:
        remedy = remedy_of(error, str(file))
        return Found(file, file.stem, problem=ConfigError(error.message, hint=remedy))
    if settings.api != ApiSettings(max_lag_seconds=settings.api.max_lag_seconds):
        logger.warning(
            "[api] of the configuration is not used, that of supervisor.toml is",
            extra={"pipeline": name},
        )
    return Found(file, name, settings)


def _obey_signals(supervisor: Supervisor, reload: Reload, ending: asyncio.Event) -> None:
    """SIGTERM and Ctrl-C have all engines commit and stop; a second Ctrl-C kills them. SIGHUP reads
    the directory again; from a terminal it means that the terminal is gone.
    """
    loop = asyncio.get_running_loop()
    reloads: set[asyncio.Task[None]] = set()

    def interrupted() -> None:
        if ending.is_set():
            supervisor.kill()
        ending.set()

    async def reload_or_log() -> None:
        try:
            await reload()
        except TailraceError as error:
            extra = {"error": error.message, "hint": error.hint}
            logger.error("the directory cannot be used, the engines go on", extra=extra)

    def hung_up() -> None:
        task = asyncio.create_task(reload_or_log())
        reloads.add(task)
        task.add_done_callback(reloads.discard)

    loop.add_signal_handler(signal.SIGTERM, ending.set)
    loop.add_signal_handler(signal.SIGINT, interrupted)
    loop.add_signal_handler(signal.SIGHUP, ending.set if sys.stderr.isatty() else hung_up)


def _make_server(
    settings: ApiSettings,
    access: Access,
    listen: str,
    supervisor: Supervisor,
    apis: EngineApis,
    reload: Reload,
    ending: asyncio.Event,
) -> HttpServer:
    from engine.ops.server import HttpServer
    from engine.ops.supervisor.api import SupervisorApi

    host, _ = parse_listen(listen)
    api = SupervisorApi(access, supervisor, apis, reload, ending.set)
    return HttpServer(listen, api.app(), tls=settings.secure(host))
