"""
The process table of the supervisor: one process for each configuration.

A process that fails is started again, with a wait that grows. A process that has ended for a reason
that another start does not change (``FINAL``) stays as it is until the next ``apply``. One that a
newer engine elsewhere has fenced stands by: it is started again when the target has had no engine
of its pipeline for some time. So two supervisors with the same files do not fence each other again
and again, and one of them goes on when the other is gone.

Each process has one end of a socket pair as its standard input. When this process is gone, the
engines read its end there, commit and stop. An engine that ends with an error writes it there as a
``LastWords``. The engines are in sessions of their own, so that Ctrl-C reaches this process alone.
"""

from __future__ import annotations

import asyncio
import logging
import os
import random
import signal
import socket
import time
from asyncio.subprocess import Process
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from itertools import count
from pathlib import Path
from typing import Final, NamedTuple, Protocol

import msgspec

from engine.errors import ConfigError, Fenced, TailraceError
from engine.ops.supervisor.status import ProcessState, ProcessStatus
from engine.settings.loader import RetrySettings

__all__ = ["RELOAD_SECONDS", "STOP_SECONDS", "Engines", "Found", "LastWords", "Supervisor"]

log = logging.getLogger("tailrace.supervisor")

#: The exit status of a run that has left out changes.
LEFT_OUT: Final = 3
#: What follows from the exit status of an engine. After any other it is started again.
FINAL: Final[Mapping[int, ProcessState]] = {
    0: "ended",
    ConfigError.exit_status: "configuration error",
    LEFT_OUT: "ended",
    Fenced.exit_status: "standing by",
}
#: The waits before a process is started again.
RESTARTS: Final = RetrySettings(first_seconds=1.0, max_seconds=60.0)
#: A process that has lived so long begins with the first wait again.
STEADY_SECONDS = 120.0
#: How long an engine may take to commit and stop. Its own waits (for the pipeline, telemetry,
#: notifications and the server) end after 20 seconds in total.
STOP_SECONDS = 30.0
#: How long a reload may take: engines that have changed end first, and before them those of an
#: earlier reload.
RELOAD_SECONDS = 2 * STOP_SECONDS + 10
#: How often an engine is asked whether it lives, and how long it may be silent.
PROBE_SECONDS = 10.0
SILENT_SECONDS = 60.0
#: How often the target is asked for a newer engine, and how often in a row there must be none.
STANDBY_SECONDS = 10.0
STANDBY_PROBES = 3
#: The variables of systemd that are for this process alone.
NOT_FOR_ENGINES = ("NOTIFY_SOCKET", "WATCHDOG_PID", "WATCHDOG_USEC")
LAST_WORDS_BYTES = 65536
#: The outcome of ``apply`` while the engines end.
STOPPING = "the pipelines are being stopped"


class Found(NamedTuple):
    """A file of the directory. ``settings`` tell whether it has changed; they are None if the file
    cannot be used, for the reason ``problem``.
    """

    file: Path
    name: str
    settings: object | None = None
    problem: TailraceError | None = None


class LastWords(msgspec.Struct, frozen=True):
    """The error with which an engine has ended, and what to do."""

    message: str
    remedy: str = ""


class Engines(Protocol):
    """What the supervisor needs to know of engines: ``engine.cli.supervise``."""

    def command(self, file: Path, api: Path) -> Sequence[str]:
        """The command line of the engine of a file, which serves its API at ``api``."""

    async def answers(self, api: Path) -> bool:
        """Whether the engine that serves its API there answers."""

    async def vacant(self, found: Found) -> bool:
        """Whether no engine is connected to the target for this pipeline."""


class Supervisor:
    """Keeps the engines of a directory running. ``apply`` gives it the files of now.

    The engines serve their APIs on Unix sockets in ``folder``, which only this user may open. One
    that has not answered for a minute is killed, and started again.
    """

    def __init__(
        self, engines: Engines, folder: Path, *, restarts: RetrySettings = RESTARTS
    ) -> None:
        self._engines = engines
        self._folder = folder
        self._restarts = restarts
        self._numbers = count(1)
        self._entries: dict[Path, _Entry] = {}
        self._applying = asyncio.Lock()
        self._stopping = asyncio.Event()
        #: Whether the files have been applied for the first time.
        self.applied = False

    def statuses(self) -> list[ProcessStatus]:
        """The process of each pipeline, ordered by name."""
        found = [entry.status() for entry in self._entries.values()]
        return sorted(found, key=lambda it: (it.pipeline, it.file))

    def api_of(self, pipeline: str) -> Path | None:
        """Where the engine of a pipeline serves its API; None if no process of it runs."""
        for entry in self._entries.values():
            if entry.found.name == pipeline and entry.pid is not None:
                return entry.api
        return None

    async def apply(self, found: Iterable[Found]) -> str:
        """Start what is new, start anew what has changed or does not run, stop what is gone.

        A file that cannot be used does not stop the engine that was started with it. Returns the
        outcome in words.
        """
        async with self._applying:
            if self._stopping.is_set():
                return STOPPING
            wanted = {it.file: it for it in without_namesakes(found, self._names())}
            gone = [it for file, it in self._entries.items() if file not in wanted]
            changed = [
                (entry, wanted[file])
                for file, entry in self._entries.items()
                if file in wanted and entry.is_changed(wanted[file])
            ]
            new = [it for file, it in wanted.items() if file not in self._entries]
            # First all stops: a name may move from one file to another.
            await asyncio.gather(*(it.stop() for it in gone), *(it.stop() for it, _ in changed))
            for entry in gone:
                del self._entries[entry.found.file]
            if self._stopping.is_set():
                return STOPPING
            for it in (*(it for _, it in changed), *new):
                self._entries[it.file] = entry = self._new_entry(it)
                entry.start()
            self.applied = True
            return _in_words(
                {
                    "started": [it.name for it in new if it.problem is None],
                    "started anew": [it.name for _, it in changed if it.problem is None],
                    "stopped": [entry.found.name for entry in gone],
                },
                [it for it in wanted.values() if it.problem is not None],
            )

    async def stop(self) -> None:
        """Have all engines commit and end. Those that take too long are killed."""
        self._stopping.set()
        for entry in self._entries.values():
            entry.stop_soon()
        async with self._applying:
            await asyncio.gather(*(entry.stop() for entry in self._entries.values()))

    def kill(self) -> None:
        """Kill all engines at once; their next run resumes from the checkpoint."""
        for entry in self._entries.values():
            entry.kill()

    def _new_entry(self, found: Found) -> _Entry:
        # Each has a path of its own: the one before may still be in use.
        api = self._folder / f"{next(self._numbers)}.sock"
        return _Entry(found, api, self._engines, self._restarts)

    def _names(self) -> dict[Path, str]:
        """The names of the engines that run."""
        return {
            file: entry.found.name for file, entry in self._entries.items() if entry.pid is not None
        }


def without_namesakes(
    found: Iterable[Found], running: Mapping[Path, str] | None = None
) -> list[Found]:
    """The files; those whose pipeline's name another one has are a problem. An engine that is
    ``running`` keeps its name.
    """
    files = sorted(found, key=lambda it: it.file.name)
    names = {it.file: it.name for it in files if it.problem is None}
    known = {it.file for it in files}
    owners = {
        name: file
        for file, name in (running or {}).items()
        if file in known and names.get(file, name) == name
    }
    for file, name in names.items():
        owners.setdefault(name, file)
    return [_without_name(it, owners) for it in files]


def _without_name(it: Found, owners: Mapping[str, Path]) -> Found:
    """The file; with a problem if its name is that of another one. What cannot be used is named by
    its file, where the name is taken.
    """
    owner = owners.get(it.name, it.file)
    if owner == it.file:
        return it
    if it.problem is not None:
        return it._replace(name=it.file.name)
    problem = ConfigError(
        f"the name of the pipeline is that of {owner.name}, too: {it.name}",
        hint="write another name into [pipeline]; it identifies the checkpoint in the target",
    )
    return Found(it.file, it.file.name, problem=problem)


class _Entry:
    """One file with its process."""

    def __init__(self, found: Found, api: Path, engines: Engines, restarts: RetrySettings) -> None:
        self.found, self.api = found, api
        self._engines, self._settings = engines, restarts
        self._state: ProcessState = "running"
        self._since = time.time()
        self._process: Process | None = None
        self._restarts = 0
        self._exit_status: int | None = None
        self._next_start: float | None = None
        self._last = LastWords("")
        self._stop = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    @property
    def pid(self) -> int | None:
        """The id of the process; None if none runs."""
        return None if self._process is None else self._process.pid

    def status(self) -> ProcessStatus:
        """The process now."""
        return ProcessStatus(
            pipeline=self.found.name,
            file=str(self.found.file),
            process=self._state,
            since=self._since,
            pid=self.pid,
            restarts=self._restarts,
            exit_status=self._exit_status,
            next_start=self._next_start,
            message=self._last.message,
            remedy=self._last.remedy,
        )

    def is_changed(self, now: Found) -> bool:
        """Whether the file, as it is now, needs another process, or has none that runs."""
        if self._process is None:
            return self._state != "standing by" or now.settings != self.found.settings
        if now.problem is not None:
            self._warn("the configuration cannot be used, the engine goes on", now.problem)
            return False
        return now.settings != self.found.settings

    def start(self) -> None:
        """Start the process, and start it again when it fails. A file with a problem has none."""
        if (problem := self.found.problem) is not None:
            self._enter("configuration error")
            self._last = LastWords(problem.message, problem.hint)
            self._warn("the configuration cannot be used", problem)
        else:
            self._task = asyncio.create_task(self._keep_running())

    def stop_soon(self) -> None:
        """Have the process commit and end."""
        self._stop.set()

    async def stop(self) -> None:
        """The same, and wait for its end."""
        self._stop.set()
        if self._task is not None:
            await self._task

    def kill(self) -> None:
        """Kill the process."""
        self._stop.set()
        if self._process is not None:
            with suppress(ProcessLookupError):
                self._process.kill()

    async def _keep_running(self) -> None:
        delay = self._settings.first_seconds
        while not self._stop.is_set():
            started = time.monotonic()
            try:
                status = await self._run_once()
            except OSError as error:  # such as too many processes
                self._last = LastWords(f"no process can be started: {error.strerror}")
                status = None
            self._exit_status = status
            if self._stop.is_set():
                break
            if status is not None and status in FINAL:
                self._enter(FINAL[status])
                self._log_end(logging.INFO if status == 0 else logging.ERROR, status)
                if self._state != "standing by" or not await self._vacant():
                    return
                log.warning("no newer engine is left, the pipeline goes on", extra=self._fields())
                continue
            if time.monotonic() - started >= STEADY_SECONDS:
                delay = self._settings.first_seconds
            wait = delay * random.uniform(0.7, 1.0)
            delay = min(delay * 2, self._settings.max_seconds)
            self._enter("restarting")
            self._next_start = self._since + wait
            self._log_end(logging.ERROR, status, delay_seconds=round(wait, 3))
            await self._stopped_within(wait)
            self._next_start = None
            self._restarts += 1
        self._enter("ended")

    async def _run_once(self) -> int:
        """Start the process, and wait for its end. Returns its exit status; negative: the signal
        that has killed it.
        """
        ours, theirs = socket.socketpair()
        with ours:
            ours.setblocking(False)
            with theirs:
                self._process = process = await asyncio.create_subprocess_exec(
                    *self._engines.command(self.found.file, self.api),
                    stdin=theirs.fileno(),
                    start_new_session=True,
                    env={k: v for k, v in os.environ.items() if k not in NOT_FOR_ENGINES},
                )
            self._enter("running")
            ended = asyncio.create_task(process.wait())
            watching = asyncio.create_task(self._end_if_silent(process))
            stopped = asyncio.create_task(self._stop.wait())
            try:
                await asyncio.wait((ended, stopped), return_when=asyncio.FIRST_COMPLETED)
                if not ended.done():
                    await self._end(process, ended)
                status = await ended
            finally:
                watching.cancel()
                stopped.cancel()
                self._process = None
            self._last = _last_words(ours, status) if status else LastWords("")
        with suppress(FileNotFoundError):
            self.api.unlink()
        return status

    async def _end(self, process: Process, ended: asyncio.Task[int]) -> None:
        """Have the process commit and end. Kill it if that takes too long."""
        self._enter("stopping")
        with suppress(ProcessLookupError):
            process.terminate()
        if not (await asyncio.wait((ended,), timeout=STOP_SECONDS))[0]:
            log.warning("the engine does not end, it is killed", extra=self._fields())
            with suppress(ProcessLookupError):
                process.kill()

    async def _end_if_silent(self, process: Process) -> None:
        """Kill a process whose API does not answer, such as one that hangs."""
        heard = time.monotonic()
        while time.monotonic() - heard < SILENT_SECONDS:
            await asyncio.sleep(PROBE_SECONDS)
            if await self._engines.answers(self.api):
                heard = time.monotonic()
        log.error("the engine does not answer, it is killed", extra=self._fields())
        with suppress(ProcessLookupError):
            process.send_signal(signal.SIGKILL)

    async def _vacant(self) -> bool:
        """Wait until no engine has been connected to the target for some time. False: stopped."""
        probes = 0
        while probes < STANDBY_PROBES:
            if await self._stopped_within(STANDBY_SECONDS):
                return False
            probes = probes + 1 if await self._engines.vacant(self.found) else 0
        return True

    async def _stopped_within(self, seconds: float) -> bool:
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._stop.wait()
        return self._stop.is_set()

    def _enter(self, state: ProcessState) -> None:
        self._state, self._since = state, time.time()

    def _fields(self) -> dict[str, str]:
        return {"pipeline": self.found.name}

    def _warn(self, message: str, problem: TailraceError) -> None:
        extra = {**self._fields(), "error": problem.message, "hint": problem.hint}
        log.error(message, extra=extra)

    def _log_end(self, level: int, status: int | None, **more: float) -> None:
        said = {"error": self._last.message} if self._last.message else {}
        extra = {**self._fields(), "exit_status": status, "state": self._state, **said, **more}
        log.log(level, "the engine has ended", extra=extra)


def _last_words(ours: socket.socket, status: int) -> LastWords:
    """What an engine has written before its end, or what its exit status tells."""
    with suppress(OSError, msgspec.DecodeError):
        return msgspec.json.decode(ours.recv(LAST_WORDS_BYTES), type=LastWords)
    if status == LEFT_OUT:
        return LastWords("the target lacks changes of quarantined tables, or dead letters")
    if status < 0:
        return LastWords(f"the process was killed by {_signal_name(-status)}")
    return LastWords(f"the process has ended with exit status {status}")


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def _in_words(done: Mapping[str, Sequence[str]], problems: Sequence[Found]) -> str:
    said = [f"{what}: {', '.join(sorted(names))}" for what, names in done.items() if names]
    said += [f"{it.file.name} cannot be used: {it.problem}" for it in problems]
    return "; ".join(said) or "nothing has changed"
