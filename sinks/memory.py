"""
A target in memory, for tests.

*Guarantee*: exactly once, as long as the process lives. Rows, checkpoint and table versions change
together at ``commit``, and a second sink on the same store finds them, as after a restart.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import ClassVar

import msgspec

from engine.change import (
    TWIN_PREFIX,
    Cascade,
    Change,
    DeletePart,
    DeleteRange,
    InPlace,
    KeepKeys,
    Replace,
    ReplaceColumns,
    ReplacePart,
    Row,
    Rows,
    SchemaChange,
    Truncate,
)
from engine.checkpoint import Checkpoint
from engine.commands import StoredCommand
from engine.contract import Applied, Capabilities, Finding, State
from engine.errors import ApplyError, Fenced, TailraceError
from engine.proof import TableProof
from engine.recovery import DeadLetter
from engine.schema import Table, TableId
from engine.toolkit.cascades import runs, steps
from engine.toolkit.memory_table import MemoryTable

__all__ = ["MemorySink", "MemorySinkSettings", "MemoryStore"]


class MemorySinkSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """``url``, ``memory:NAME``, names a store of this process; the first use makes it."""

    url: str


class MemoryStore:
    """The data that outlives a sink: rows by table, and the state of each pipeline."""

    named: dict[str, MemoryStore] = {}  # noqa: RUF012 - the stores of this process

    def __init__(self) -> None:
        self.contents: dict[TableId, MemoryTable] = {}
        self.states: dict[str, State] = {}
        #: The commands of all pipelines, each with its pipeline.
        self.commands: list[tuple[str, StoredCommand]] = []
        #: The dead letters of all pipelines.
        self.letters: list[tuple[str, DeadLetter]] = []
        #: The last comparison of each table of each pipeline, with the table's generation.
        self.proofs: dict[tuple[str, TableId], tuple[TableProof, int]] = {}
        #: The last generation of a table.
        self.generation = 0
        #: The pipelines that a sink has open.
        self.running: set[str] = set()

    def rows(self, id: TableId) -> list[Row]:
        """The committed rows in key order; those of a keyless table in the order of insertion."""
        return list(self.contents[id])


class MemoryCommands:
    """A ``CommandClient`` of one pipeline."""

    def __init__(self, store: MemoryStore, pipeline: str) -> None:
        self._store = store
        self._pipeline = pipeline

    async def submit(self, command: str, by: str) -> int:
        id = len(self._store.commands) + 1
        self._store.commands.append((self._pipeline, StoredCommand(id, command, by, time.time())))
        return id

    async def cancel(self, id: int, outcome: str) -> bool:
        found = await self.find(id)
        if found is None or found.outcome is not None:
            return False
        done = msgspec.structs.replace(found, outcome=outcome, refused=True)
        self._store.commands[id - 1] = (self._pipeline, done)
        return True

    async def find(self, id: int) -> StoredCommand | None:
        return next((it for it in self._own() if it.id == id), None)

    async def newest(self, count: int) -> list[StoredCommand]:
        own = self._own()
        return [it for n, it in enumerate(own) if it.outcome is None or n >= len(own) - count]

    async def engine_runs(self) -> bool:
        return self._pipeline in self._store.running

    def _own(self) -> list[StoredCommand]:
        return [it for pipeline, it in self._store.commands if pipeline == self._pipeline]


class MemorySink:
    """Keeps the rows of each table in a ``MemoryStore``: the one given, else the URL's."""

    Settings: ClassVar[type[msgspec.Struct]] = MemorySinkSettings
    capabilities: ClassVar[Capabilities] = Capabilities(
        guarantee="exactly once",
        transactional=True,
        upsert=True,
        schema_changes=True,
        cascades=True,
        parts=True,
        in_place=True,
        columns=True,
    )

    def __init__(
        self, settings: MemorySinkSettings, pipeline: str, store: MemoryStore | None = None
    ) -> None:
        self.store = store or MemoryStore.named.setdefault(settings.url, MemoryStore())
        self._pipeline = pipeline
        self._epoch = 0
        self._open: dict[TableId, MemoryTable] | None = None
        self._concluded: list[StoredCommand] = []
        self._letters = list(self.store.letters)
        self.commands_wait = False

    async def check(self, tables: Sequence[Table]) -> list[Finding]:
        return [Finding("ok", "memory", f"it can hold {len(tables)} tables")]

    async def open(self, epoch: int | None = None) -> State:
        self._open = None
        stored = self.store.states.get(self._pipeline, State(0, None, ()))
        if epoch is None:
            stored = msgspec.structs.replace(stored, epoch=stored.epoch + 1)
            self.store.states[self._pipeline] = stored
        elif epoch != stored.epoch:
            raise Fenced(f"epoch {stored.epoch} has taken over from epoch {epoch}")
        self._epoch = stored.epoch
        self._concluded.clear()
        self.store.running.add(self._pipeline)
        self._letters = list(self.store.letters)
        return stored

    async def apply(
        self, changes: Sequence[Change], in_backfill: Collection[TableId] = ()
    ) -> Applied:
        applied = Applied()
        for change in changes:
            if isinstance(change, Rows):
                id = change.table.id
                drift = self._contents(id).apply(change)
                if drift and id not in in_backfill and change.op != "read":
                    applied.drift[id] = applied.drift.get(id, 0) + drift
            elif isinstance(change, Truncate):
                self._contents(change.table.id).clear()
            elif isinstance(change, DeletePart):
                self._contents(change.table.id).delete_part(change)
            elif isinstance(change, DeleteRange):
                self._contents(change.table.id).delete_range(change)
            elif isinstance(change, KeepKeys):
                self._contents(change.table.id).keep_keys(self._contents(change.twin.id))
            elif isinstance(change, InPlace):
                self._alter(SchemaChange("", change.before, change.after))
            elif isinstance(change, ReplacePart):
                contents = self._contents(change.table.id)
                contents.delete_part(DeletePart(change.table, change.part))
                contents.add(self._contents(change.twin.id))
                self._alter(SchemaChange("", change.twin, None))
            elif isinstance(change, ReplaceColumns):
                self._contents(change.before.id).fill(
                    self._contents(change.twin.id), change.columns
                )
                self._alter(SchemaChange("", change.twin, None))
                self._alter(SchemaChange("", change.before, change.after))
            elif isinstance(change, SchemaChange):
                self._alter(change)
            elif isinstance(change, Cascade):
                self._cascade(change)
            elif isinstance(change, Replace):
                for step in change.steps:
                    self._alter(step)
        return applied

    async def commit(self, checkpoint: Checkpoint) -> None:
        newest = self.store.states.get(self._pipeline, State(0, None, ())).epoch
        if not self._epoch == checkpoint.epoch == newest:
            self._open = None
            raise Fenced(f"epoch {newest} has taken over from epoch {checkpoint.epoch}")
        self.store.contents = self._transaction()
        tables = tuple(contents.table for contents in self.store.contents.values())
        known = self.store.states[self._pipeline].generations
        self.store.generation += 1
        generations = {
            id: known.get(id, self.store.generation)
            if it.state == "live"
            else self.store.generation
            for id, it in checkpoint.progress.items()
        }
        self.store.states[self._pipeline] = State(
            newest, checkpoint, tables, generations=generations
        )
        self._forget_proofs(set(known) - set(generations))
        self._open = None

        for done in self._concluded:
            self.store.commands[done.id - 1] = (self._pipeline, done)
        self._concluded.clear()
        self.commands_wait = bool(await self.waiting_commands())
        self.store.letters = list(self._letters)

    async def rollback(self) -> None:
        self._open = None
        self._letters = list(self.store.letters)
        self._concluded.clear()

    async def state(self) -> State | None:
        return self.store.states.get(self._pipeline)

    async def waiting_commands(self) -> list[StoredCommand]:
        return [
            command
            for pipeline, command in self.store.commands
            if pipeline == self._pipeline and command.outcome is None
        ]

    async def claim_command(self, id: int) -> bool:
        return any(command.id == id for command in await self.waiting_commands())

    async def conclude_command(self, id: int, outcome: str, *, refused: bool = False) -> None:
        _, command = self.store.commands[id - 1]
        self._concluded.append(msgspec.structs.replace(command, outcome=outcome, refused=refused))

    @asynccontextmanager
    async def savepoint(self) -> AsyncIterator[None]:
        before = {id: contents.copy() for id, contents in self._transaction().items()}
        letters = list(self._letters)
        try:
            yield
        except TailraceError:
            self._open, self._letters = before, letters
            raise

    async def add_dead_letter(self, letter: DeadLetter) -> None:
        letter = msgspec.structs.replace(letter, id=len(self._letters) + 1, at=time.time())
        self._letters.append((self._pipeline, letter))

    async def dead_letters(self) -> list[DeadLetter]:
        return [
            letter
            for pipeline, letter in self._letters
            if pipeline == self._pipeline and letter.outcome is None
        ]

    async def close_dead_letters(self, id: TableId, letter: int | None, outcome: str) -> None:
        for n, (pipeline, it) in enumerate(self._letters):
            mine = pipeline == self._pipeline and it.table == id and it.outcome is None
            if mine and letter in (None, it.id):
                closed = msgspec.structs.replace(it, outcome=outcome, images=b"")
                self._letters[n] = (pipeline, closed)

    async def read_dead_letters(self) -> list[DeadLetter]:
        return [letter for pipeline, letter in self.store.letters if pipeline == self._pipeline]

    async def count_dead_letters(self) -> dict[TableId, int]:
        letters = await self.read_dead_letters()
        return dict(Counter(letter.table for letter in letters if letter.outcome is None))

    async def save_proofs(
        self, proofs: Mapping[TableId, TableProof], generations: Mapping[TableId, int]
    ) -> None:
        stored = self.store.proofs
        for id, proof in proofs.items() if self._pipeline in self.store.states else ():
            before = stored.get((self._pipeline, id))
            equal_at, first_at = proof.equal_at, proof.started_at
            if before is not None:
                first_at = before[0].first_at or first_at
                equal_at = before[0].equal_at if equal_at is None else equal_at
            proof = msgspec.structs.replace(proof, equal_at=equal_at, first_at=first_at)
            stored[self._pipeline, id] = proof, generations[id]

    async def proofs(self) -> dict[TableId, TableProof]:
        state = self.store.states.get(self._pipeline, State(0, None, ()))
        return {
            id: it
            if state.generations.get(id) == generation
            else msgspec.structs.replace(it, position="")
            for (name, id), (it, generation) in self.store.proofs.items()
            if name == self._pipeline
        }

    async def void_proofs(self) -> None:
        self.store.generation += 1
        state = self.store.states.get(self._pipeline)
        if state is not None:
            self.store.states[self._pipeline] = msgspec.structs.replace(
                state, generations=dict.fromkeys(state.generations, self.store.generation)
            )

    async def reset(self, *, drop: bool) -> int:
        state = await self.open()
        twins = {table.id for table in state.tables if table.id.name.startswith(TWIN_PREFIX)}
        tables = {table.id for table in state.tables} - twins
        for id in twins | (tables if drop else set()):
            self.store.contents.pop(id, None)
        del self.store.states[self._pipeline]
        self._forget_proofs(await self.proofs())
        await self.close()
        return len(tables) if drop else 0

    def _forget_proofs(self, gone: Collection[TableId]) -> None:
        for id in gone:
            self.store.proofs.pop((self._pipeline, id), None)

    @asynccontextmanager
    async def command_client(self) -> AsyncIterator[MemoryCommands]:
        yield MemoryCommands(self.store, self._pipeline)

    async def close(self) -> None:
        self._open = None
        self._concluded.clear()
        if self._epoch:
            self.store.running.discard(self._pipeline)

    def _transaction(self) -> dict[TableId, MemoryTable]:
        """The tables as the open transaction sees them; ``_contents`` copies those that change."""
        if self._open is None:
            self._open = dict(self.store.contents)
        return self._open

    def _contents(self, id: TableId) -> MemoryTable:
        """The contents of one table, copied so that the open transaction may change them."""
        transaction = self._transaction()
        if id not in transaction:
            raise ApplyError("the table was never created", hint="start anew", table=id)
        if transaction[id] is self.store.contents.get(id):
            transaction[id] = transaction[id].copy()
        return transaction[id]

    def _cascade(self, change: Cascade) -> None:
        if change.after is None:
            self._act(change, dict.fromkeys(change.before))
            return
        for before, after in runs(change.before, change.after, apart=bool(change.folded)):
            self._act(change, dict(zip(before, after, strict=True)))

    def _act(self, change: Cascade, values: Mapping[Row, Row | None]) -> None:
        """Execute the foreign keys that refer to these values, which become others or None."""
        changed = None if change.after is None else frozenset(change.columns)
        waiting = [
            (step, values)
            for step in steps(change.tables, change.parent, changed)
            if step.key.parent_columns == change.columns
        ]
        while waiting:
            step, values = waiting.pop(0)
            contents = self._contents(step.child.id)
            foldings = change.folded.get((step.child.id, step.key.name), ())
            hit = contents.refer(step, values, foldings)
            for each in steps(change.tables, step.child.id, step.changed):
                place = [step.child.ordinal(name) for name in each.key.parent_columns]
                next_values = {
                    tuple(old[n] for n in place): None
                    if new is None
                    else tuple(new[n] for n in place)
                    for old, new in hit
                }
                if next_values:
                    waiting.append((each, next_values))

    def _alter(self, change: SchemaChange) -> None:
        before, after = change.before, change.after
        old = self._transaction().pop(before.id, None) if before is not None else None
        if after is not None:
            self._transaction()[after.id] = (
                MemoryTable(after)
                if old is None
                else old.altered(after, change.renamed, change.filled)
            )
