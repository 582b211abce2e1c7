"""
A source, a target and an engine without servers, for tests of a cutover's order of steps.

The log of the source is a number that grows with each write. What happens in the middle of a step
is planted by ``at``: it is called when the step is told, as a person or a crash would act then.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import cast

import msgspec

from engine.checkpoint import Checkpoint, TableProgress
from engine.contract import Sink, Source, State
from engine.cutover.hooks import Hooks
from engine.cutover.machine import Machine
from engine.cutover.parts import Engine, Line, Parts
from engine.errors import SinkLost, SourceLost, TailraceError
from engine.handover import (
    Changed,
    Client,
    Connected,
    Cutover,
    Finished,
    Numbers,
    Obstacle,
    Sides,
    Since,
)
from engine.proof import TableProof
from engine.schema import Table, TableId
from engine.settings.cutover import CutoverSettings, HookName, HookSettings
from engine.structure import Counter
from engine.toolkit.schema_diff import Difference
from engine.verify.report import TableReport, VerifyReport

__all__ = ["LEDGER", "World"]

LEDGER = TableId("shop", "ledger")
HOOK = HookSettings(("true",))
QUICK = CutoverSettings(
    quiet_seconds=0.01, freeze_seconds=0.1, switch=HOOK, max_downtime_seconds=60.0
)


class World:
    """Both sides, the store, and what was called."""

    def __init__(self, settings: CutoverSettings = QUICK) -> None:
        self.settings = settings
        self.end = 7
        #: The end of the log after the last change of rows.
        self.changed_at = 7
        self.applied: int | None = None
        #: How long the log could be read at last for changed tables.
        self.log_seconds = 0.0
        self.read_only = False
        self.runs = True
        self.paused = False
        self.record: Cutover | None = None
        self.target_is_lost = False
        #: What was called, in order: hooks with the number of the call, freeze, thaw, stop.
        self.calls: list[str] = []
        self.failing: set[str] = set()
        self.prepared: list[str] = []
        self.proof: TableProof | None = None
        self.outdated: dict[TableId, str] = {}
        self.clients: list[Client] = []
        self.counters: dict[TableId, Counter] = {}
        #: What the target's sequences were set past.
        self.finished: Numbers | None = None
        #: What the step finish leaves as it is.
        self.left: tuple[str, ...] = ()
        #: The sessions of others on the source, with their numbers, and the newest of all.
        self.sessions: dict[str, int] = {}
        self.newest_session = 7
        self.hidden = ""
        self.lines: list[Line] = []
        #: What prints the lines.
        self.shown: Callable[[Line], None] = lambda line: None
        self.at: dict[str, Callable[[], None]] = {}
        self.comparing: Callable[[], None] = lambda: None

    def begin(self, state: str, **fields: object) -> None:
        """A record as a process that was killed has left it."""
        record = Cutover("cutover_1", "freeze", 1.0, "test", end="7", frozen_at=None)
        self.record = msgspec.structs.replace(record, **{"state": state, "before": "OFF", **fields})
        self.read_only = True

    def write(self, *, rows: bool = True) -> None:
        """The log of the source grows, by changed rows or by something else."""
        self.end += 1
        if rows:
            self.changed_at = self.end

    def go_back(self) -> None:
        """The log of the source is a shorter one, with a row that the target has not. The target
        has what the first log had.
        """
        self.applied, self.end, self.changed_at = self.end, 3, 3
        self.read_only = False

    def run(self, **options: bool) -> Cutover:
        """``tailrace cutover``."""
        return asyncio.run(self.machine().run(**options))

    def abort(self, *, force: bool = False) -> Cutover:
        """``tailrace cutover --abort``."""
        return asyncio.run(self.machine().abort(force=force))

    def machine(self) -> Machine:
        """A process that works on the cutover."""
        return Machine(
            Parts(
                source=cast(Source, _Source(self)),
                sink=cast(Sink, _Sink(self)),
                freezer=_Freezer(self),
                store=_Store(self),
                engine=Engine(self._runs, self._stop),
                hooks=_Hooks(self),
                settings=self.settings,
                compare=self._compare,
                differences=self._differences,
                counters=self._counters,
                outdated=lambda state: self.outdated,
                tell=self._tell,
                by="test",
                pipeline="mirror",
                sides=self._sides,
            )
        )

    def note(self, call: str) -> None:
        """Note a call. It fails if that is planted."""
        self.calls.append(call)
        if planted := self.at.get(call):
            planted()
        if call.split()[0] in self.failing:
            raise TailraceError(f"{call} fails")

    def _tell(self, line: Line) -> None:
        self.lines.append(line)
        self.shown(line)
        if not line.did and (planted := self.at.get(f"step {line.step}")):
            planted()

    async def _runs(self) -> bool:
        return self.runs

    async def _stop(self) -> str:
        self.note("stop")
        self.runs = False
        return "the engine ends"

    async def _compare(self, names: Sequence[str]) -> VerifyReport:
        self.comparing()
        await asyncio.sleep(0)
        table = TableReport(str(LEDGER), 2, 0, 0, 0, 0.1, True)
        return VerifyReport(True, 0.1, (table,))

    async def _differences(self) -> list[Difference]:
        return []

    async def _counters(self, state: State) -> dict[TableId, Counter]:
        return self.counters

    async def _sides(self) -> Sides:
        return Sides()


class _Source:
    def __init__(self, world: World) -> None:
        self._world = world

    def position(self) -> str:
        return str(self._world.end)

    def reached(self, position: str, goal: str) -> bool:
        return int(position) >= int(goal)

    def unresolved(self, position: str) -> list[str]:
        return self._world.prepared


class _Sink:
    def __init__(self, world: World) -> None:
        self._world = world

    async def state(self) -> State:
        world = self._world
        if world.target_is_lost:
            raise SinkLost("the connection to the target is lost")
        applied = world.end if world.applied is None else world.applied
        progress = {LEDGER: TableProgress("live")}
        checkpoint = Checkpoint("mirror", 1, str(applied), progress=progress, paused=world.paused)
        return State(1, checkpoint, (Table(LEDGER, ()),))

    @asynccontextmanager
    async def cutover_store(self) -> AsyncIterator[_Store]:
        yield _Store(self._world)

    async def newest_cutover(self) -> Cutover | None:
        return self._world.record

    async def finish(self, tables: Sequence[TableId], numbers: Numbers) -> Finished:
        self._world.finished = numbers
        return Finished(1, 0, 1, self._world.left)

    async def obstacles(self, tables: Sequence[TableId], numbers: Numbers) -> list[Obstacle]:
        return []

    async def clients(self, tables: Sequence[TableId]) -> list[Client]:
        return self._world.clients

    async def save_proofs(
        self, proofs: Mapping[TableId, TableProof], generations: Mapping[TableId, int]
    ) -> None:
        raise NotImplementedError

    async def proofs(self) -> dict[TableId, TableProof]:
        proof = self._world.proof
        return {} if proof is None else {LEDGER: proof}

    async def void_proofs(self) -> None:
        if self._world.proof is not None:
            self._world.proof = msgspec.structs.replace(self._world.proof, position="")


class _Store:
    def __init__(self, world: World) -> None:
        self._world = world

    async def save(self, cutover: Cutover) -> None:
        world = self._world
        if world.target_is_lost:
            raise SinkLost("the connection to the target is lost")
        if planted := world.at.get(f"save {cutover.state}"):
            planted()
        world.record = cutover

    async def newest(self) -> Cutover | None:
        if self._world.target_is_lost:
            raise SinkLost("the connection to the target is lost")
        return self._world.record


class _Freezer:
    def __init__(self, world: World) -> None:
        self._world = world

    def before(self) -> str:
        return "OFF"

    def why_not(self) -> str:
        return ""

    def freeze(self, seconds: float) -> None:
        self._world.note("freeze")
        self._world.read_only = True

    def is_frozen(self) -> bool:
        return self._world.read_only

    def thaw(self, before: str) -> None:
        self._world.note("thaw")
        self._world.read_only = before == "ON"

    def newest_session(self) -> int:
        newest = self._world.newest_session
        if planted := self._world.at.get("newest_session"):
            planted()
        return newest

    def clients(self, until: int | None = None) -> Connected:
        if "clients" in self._world.failing:
            raise SourceLost("the connection to the source is lost")
        found = [name for name, number in self._world.sessions.items() if number <= (until or 99)]
        return Connected(tuple(found), self._world.hidden)

    def changed(self, since: Mapping[Table, Since], seconds: float) -> Changed:
        world = self._world
        world.log_seconds = seconds
        return Changed(
            frozenset(it.id for it, at in since.items() if world.changed_at > int(at.position))
        )

    def close(self) -> None:
        """Nothing is open."""


class _Hooks(Hooks):
    def __init__(self, world: World) -> None:
        super().__init__(world.settings, "mirror")
        self._world = world

    async def call(self, name: HookName, cutover: Cutover, count: int = 1) -> None:
        self._world.note(f"hook_{name} {count}")
