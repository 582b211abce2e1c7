"""
Dead letters: rows that the target refuses, kept there until they are retried or discarded.

The first refusal of a table with the policy ``dead_letter`` ends the attempt, and the table is
*guarded* from then on: its rows are applied apart, in a savepoint. If the target refuses them they
are halved until the row is alone. The row becomes a dead letter in the transaction of the rest.
Later changes of a key with an open letter wait behind it, in order, so that nothing is applied on
top of a hole. As long as no table is guarded, nothing of this is done.

What changes rows without naming them, such as a schema change or a cascade, cannot wait for a key.
Such a table is left (``UnloggedChange``), and its letters are closed when it is read again. A
closed letter has no images any more. A table without open letters is not guarded.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence

import msgspec

from engine.change import (
    Begin,
    Cascade,
    Change,
    DeletePart,
    Row,
    Rows,
    SchemaChange,
    Truncate,
    UnloggedPart,
)
from engine.contract import Sink
from engine.errors import ApplyError, TailraceError, UnloggedChange
from engine.recovery import DeadLetter, DeadLetterStore
from engine.schema import Table, TableId
from engine.settings.loader import ErrorSettings

__all__ = ["DeadLetters", "letter_line", "rows_of"]

log = logging.getLogger("tailrace.pipeline")

#: A table with open letters of more keys is quarantined instead: something else is wrong with it.
MOST_KEYS = 1000
#: So is a table with more open letters, such as those of a row that changes all the time …
MOST_LETTERS = 20_000
#: … or with larger ones, because all of them are read at the start of an attempt.
MOST_BYTES = 64 << 20

#: The shown key of a row of a table without one: its values are not shown.
NO_KEY = "[]"

#: Applies changes, and returns the number of rows.
Apply = Callable[[Sequence[Change]], Awaitable[int]]

#: The changes that may concern all rows of a table.
_OF_ALL_ROWS = frozenset((SchemaChange, Truncate, DeletePart, UnloggedPart, Cascade))


class _Images(msgspec.Struct, frozen=True, array_like=True):
    """The images of one row change."""

    before: Row | None
    after: Row | None
    before_present: int | None
    after_present: int | None


def rows_of(letter: DeadLetter, table: Table) -> Rows:
    """The change of a letter, on the version of its table."""
    images = msgspec.msgpack.decode(letter.images, type=_Images)
    return Rows(
        table,
        letter.operation,
        None if images.before is None else [images.before],
        None if images.after is None else [images.after],
        images.before_present,
        images.after_present,
    )


def letter_line(letter: DeadLetter, *, values: bool) -> str:
    """A letter in one line, with the values of its images if asked for."""
    state = "open" if letter.outcome is None else letter.outcome
    key = "(no key)" if letter.key == NO_KEY else letter.key
    error = "" if letter.error in letter.message else f" ({letter.error})"
    line = (
        f"{letter.id}  {letter.table}  {letter.operation} {key}  {letter.message}{error}"
        f" at {letter.position or 'its backfill'}, {state}"
    )
    if values and letter.images:
        images = msgspec.msgpack.decode(letter.images, type=_Images)
        for name, image in (("before", images.before), ("after", images.after)):
            if image is not None:
                line += f"\n    {name}: {msgspec.json.encode(image).decode()}"
    return line


class DeadLetters:
    """The guarded tables of the pipeline ``name``, and the keys of their open letters.

    ``place`` makes a position of the log what people read.
    """

    def __init__(
        self,
        name: str,
        sink: Sink,
        errors: ErrorSettings,
        place: Callable[[str], str] = str,
    ) -> None:
        self._name = name
        self._place = place
        self._store = sink if isinstance(sink, DeadLetterStore) else None
        self._errors = errors
        #: The tables whose rows are applied apart, until ``load``. Empty: nothing is done.
        self.guarded: set[TableId] = set()
        #: Those of them that have had no letter since their rows were refused.
        self._refused: set[TableId] = set()
        #: The open letters at the last ``load``, in order.
        self.open: list[DeadLetter] = []
        self._keys: dict[TableId, set[bytes]] = {}
        #: The number of open letters of each table, and of bytes in their images, with those of the
        #: open transaction.
        self._counts: dict[TableId, int] = {}
        self._bytes: dict[TableId, int] = {}
        #: Where the transaction begins that is applied now.
        self._position = ""

    @property
    def count(self) -> int:
        """The number of open letters."""
        return sum(self._counts.values())

    @property
    def counts(self) -> Mapping[TableId, int]:
        """The number of open letters of each table that has some."""
        return self._counts

    def guard(self, error: TailraceError, id: TableId) -> bool:
        """Guard a table after an error. False if that does not help, or is not the policy."""
        if (
            self._store is None
            or not isinstance(error, ApplyError)
            or not error.of_rows
            or id in self.guarded
            or self._errors.policy(id) != "dead_letter"
        ):
            return False
        self.guarded.add(id)
        self._refused.add(id)
        return True

    async def load(self, tables: Sequence[Table]) -> None:
        """Read the open letters at the start of an attempt. Call it at a commit."""
        self._keys.clear()
        self._counts.clear()
        self._bytes.clear()
        self.open = [] if self._store is None else await self._store.dead_letters()
        followed = {table.id: table for table in tables}
        for letter in self.open:
            self._count(letter)
            if letter.table in followed:
                rows = rows_of(letter, followed[letter.table])
                self._keys.setdefault(letter.table, set()).update(_keys(rows, 0))
        self._refused.difference_update(self._counts)
        self.guarded = self._refused.union(self._counts)

    def _count(self, letter: DeadLetter) -> None:
        id = letter.table
        self._counts[id] = self._counts.get(id, 0) + 1
        self._bytes[id] = self._bytes.get(id, 0) + len(letter.images)

    def concern(self, changes: Sequence[Change]) -> bool:
        """Whether one of the changes may concern a guarded table."""
        return bool(self.guarded) and any(
            type(change) in _OF_ALL_ROWS
            or (type(change) is Rows and change.table.id in self.guarded)
            for change in changes
        )

    async def apply(self, changes: Sequence[Change], apply: Apply) -> int:
        """Apply changes, those of guarded tables apart. Returns the number of applied rows."""
        count = 0
        for run in self._runs(changes):
            if isinstance(run, Rows):
                # A transaction may be applied in several batches, of which the first has its Begin.
                position = "" if run.op == "read" else self._position
                count += await self._apply_rows(run, position, apply)
            else:
                begins = [change for change in run if type(change) is Begin]
                if begins:
                    self._position = str(begins[-1].position)
                await self._check(run)
                count += await apply(run)
        return count

    def _runs(self, changes: Sequence[Change]) -> Iterator[list[Change] | Rows]:
        """The changes in order: the rows of guarded tables alone, the others in lists."""
        others: list[Change] = []
        for change in changes:
            if type(change) is Rows and change.table.id in self.guarded:
                if others:
                    yield others
                    others = []
                yield change
            else:
                others.append(change)
        if others:
            yield others

    async def _apply_rows(self, rows: Rows, position: str, apply: Apply) -> int:
        """Apply rows of a guarded table; what is refused, or has to wait, becomes letters."""
        assert self._store is not None
        table, count = rows.table, len(rows)
        waiting = self._keys.get(table.id, set())
        free: list[int] = []
        for n in range(count):
            if waiting.isdisjoint(_keys(rows, n)):
                free.append(n)
            else:
                error = ApplyError("the change waits behind a dead letter of its key")
                await self._add(_part(rows, [n]), position, error)
        if not free:
            return 0
        part = rows if len(free) == count else _part(rows, free)
        try:
            async with self._store.savepoint():
                return await apply([part])
        except ApplyError as error:
            if not error.of_rows or len(self._keys.get(table.id, ())) > MOST_KEYS:
                raise
            if len(part) == 1:
                await self._add(part, position, error)
                return 0
        middle = len(part) // 2
        first = await self._apply_rows(_part(part, range(middle)), position, apply)
        second = _part(part, range(middle, len(part)))
        return first + await self._apply_rows(second, position, apply)

    async def _add(self, row: Rows, position: str, error: ApplyError) -> None:
        assert self._store is not None
        id, table = row.table.id, row.table
        images = _Images(
            row.before[0] if row.before else None,
            row.after[0] if row.after else None,
            row.before_present,
            row.after_present,
        )
        shown = images.after if images.after is not None else images.before or ()
        letter = DeadLetter(
            table=id,
            key=msgspec.json.encode(_key(table, shown)).decode() if table.key else NO_KEY,
            operation=row.op,
            images=msgspec.msgpack.encode(images),
            error=type(error.__cause__ or error).__name__,
            message=error.message,
            position=error.position or self._place(position),
        )
        self._count(letter)
        self._limit(id)
        await self._store.add_dead_letter(letter)
        if id not in self._keys:
            log.warning(
                "a row that the target refuses is a dead letter, and later changes of its key wait"
                " behind it",
                extra={
                    "pipeline": self._name,
                    "table": str(id),
                    "position": letter.position,
                    "error_class": letter.error,
                    "reason": error.message,
                },
            )
        self._keys.setdefault(id, set()).update(_keys(row, 0))

    def _limit(self, id: TableId) -> None:
        """Raise ApplyError if the letters of a table are too many, so that it is quarantined."""
        wait = "changes of the table wait as dead letters"
        if self._counts[id] > MOST_LETTERS:
            raise ApplyError(f"more than {MOST_LETTERS:,} {wait}", table=id)
        if self._bytes[id] > MOST_BYTES:
            raise ApplyError(f"more than {MOST_BYTES >> 20} MiB of {wait}", table=id)

    async def _check(self, changes: Sequence[Change]) -> None:
        """Close the letters of a table that is emptied or dropped. Raise UnloggedChange for a
        change that cannot wait for the key of an open letter.
        """
        for change in changes:
            match change:
                case Truncate(table):
                    await self.supersede(table.id, "the table was emptied")
                case SchemaChange(before=Table() as table, after=None):
                    await self.supersede(table.id, "the table was dropped")
                case SchemaChange(before=Table() as table) | DeletePart(table):
                    self._refuse([table])
                case UnloggedPart(table=table):
                    self._refuse([table])
                case Cascade(tables=tables):
                    self._refuse(tables)

    def _refuse(self, tables: Sequence[Table]) -> None:
        for table in tables:
            if table.id in self._keys:
                raise UnloggedChange(
                    "rows of the table wait as dead letters, and a change that concerns all rows"
                    " cannot wait for them",
                    hint="`tailrace dead-letters CONFIG list` shows them",
                    table=table.id,
                )

    async def supersede(self, id: TableId, outcome: str) -> None:
        """Close the letters of a table whose rows are read again, in the open transaction."""
        if self._store is not None:
            await self._store.close_dead_letters(id, None, outcome)
            if self._counts.pop(id, 0):
                self._refused.discard(id)
            self._bytes.pop(id, None)
            self._keys.pop(id, None)
            self.open = [letter for letter in self.open if letter.table != id]

    def choose(self, ids: Sequence[int]) -> tuple[list[DeadLetter], list[int]]:
        """The open letters with these numbers, without any all; and the numbers of which none is
        open.
        """
        wanted, known = set(ids), {letter.id for letter in self.open}
        chosen = [letter for letter in self.open if not ids or letter.id in wanted]
        return chosen, sorted(wanted - known)

    async def retry(
        self, chosen: Sequence[DeadLetter], tables: Sequence[Table], apply: Apply
    ) -> str:
        """Apply open letters in order, in the open transaction.

        Letters of a key that is still refused stay. Returns what became of them.
        """
        assert self._store is not None
        followed, stuck, done = {table.id: table for table in tables}, set[bytes](), 0
        numbers, refusal = {letter.id for letter in chosen}, ""
        for letter in self.open:
            table = followed.get(letter.table)
            if table is None:
                continue
            rows = rows_of(letter, table)
            keys = {msgspec.msgpack.encode((str(letter.table), key)) for key in _keys(rows, 0)}
            if letter.id not in numbers or not stuck.isdisjoint(keys):
                stuck |= keys  # what was not retried stays before later ones of its key
                continue
            try:
                async with self._store.savepoint():
                    await apply([rows])
            except ApplyError as error:
                stuck |= keys
                refusal = refusal or f"; {letter.id} is still refused: {error.message}"
            else:
                await self._store.close_dead_letters(letter.table, letter.id, "applied")
                done += 1
        return f"dead letters applied: {done:,} of {len(chosen):,}{refusal}"

    async def discard(self, chosen: Sequence[DeadLetter], by: str) -> str:
        """Close open letters without applying them."""
        assert self._store is not None
        for letter in chosen:
            await self._store.close_dead_letters(letter.table, letter.id, f"discarded by {by}")
        return f"dead letters discarded: {len(chosen):,}"


def _key(table: Table, row: Row) -> tuple[object, ...]:
    """The values of the key; those of the whole row if there is none."""
    return tuple(row[n] for n in table.key) if table.key else tuple(row)


def _keys(rows: Rows, n: int) -> set[bytes]:
    """The keys before and after one of the changes."""
    images = (side[n] for side in (rows.before, rows.after) if side is not None)
    return {msgspec.msgpack.encode(_key(rows.table, row)) for row in images}


def _part(rows: Rows, places: Sequence[int]) -> Rows:
    """Some of the changes."""
    return Rows(
        rows.table,
        rows.op,
        None if rows.before is None else [rows.before[n] for n in places],
        None if rows.after is None else [rows.after[n] for n in places],
        rows.before_present,
        rows.after_present,
        rows.size * len(places) // max(1, len(rows)),
    )
