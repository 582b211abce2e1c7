"""
The step *verify*: every table is compared, or those that the log may have changed since their last
proof.

A table is left out if a comparison of all its rows has found it equal, and the source's log has no
change of it after the position that the target had reached when that comparison began. Then the
source has the rows of then, and the pipeline has applied nothing to the table since. What neither
shows in the log is not noticed: a session that does not log its changes, and others that write to
the target.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from engine.cutover.parts import LOG_SECONDS, Parts
from engine.errors import ConfigError, DecodeError, SourceError, TailraceError
from engine.handover import ProvenTable, Since
from engine.proof import TableProof, read_proofs
from engine.schema import TableId
from engine.verify.report import TableReport

__all__ = ["Holding", "Proven", "divided", "holding", "prove"]


class Holding(NamedTuple):
    """The proofs that still hold, and the names of the other tables; ``reason`` says why none
    holds, if it is not the tables' own changes.
    """

    proofs: Mapping[TableId, TableProof]
    names: list[str]
    reason: str = ""


class Proven(NamedTuple):
    """How each table was proven, and that in words."""

    tables: tuple[ProvenTable, ...]
    did: str


async def holding(parts: Parts, seconds: float) -> Holding:
    """The proofs that hold up to the end of the log now, which is read for ``seconds`` at most."""
    state = await parts.sink.state()
    checkpoint = None if state is None else state.checkpoint
    if state is None or checkpoint is None:
        return Holding({}, [])
    outdated = parts.outdated(state)
    live = {id for id, it in checkpoint.progress.items() if it.state == "live"}
    targets = [[it for it in target.sources if it.id in live] for target in state.tables]
    tables = {it.id: it for sources in targets for it in sources}
    proofs = {
        id: proof
        for id, proof in (await read_proofs(parts.sink)).items()
        if id in tables
        and id not in outdated
        and proof.outcome == "equal"
        and not proof.sampled
        and proof.position
    }
    reason = ""
    if proofs:
        since = {tables[id]: Since(it.position, it.started_at) for id, it in proofs.items()}
        try:
            changed = await asyncio.to_thread(parts.freezer.changed, since, seconds)
        except (SourceError, DecodeError, ConfigError) as error:  # then all are compared
            proofs, reason = {}, error.message
        else:
            proofs = {id: it for id, it in proofs.items() if id not in changed.tables}
            reason = changed.reason
    return divided([[it.id for it in sources] for sources in targets], proofs, reason)


def divided(
    targets: Sequence[Sequence[TableId]], proofs: Mapping[TableId, TableProof], reason: str = ""
) -> Holding:
    """The tables that need no comparison, and the others. ``targets`` has the tables of the source
    that each table of the target has the rows of: they are compared together.
    """
    kept = {id for ids in targets if all(id in proofs for id in ids) for id in ids}
    names = sorted(str(id) for ids in targets for id in ids if id not in kept)
    return Holding({id: proofs[id] for id in sorted(kept)}, names, reason)


async def prove(parts: Parts, seconds: float | None, *, frozen: bool) -> Proven:
    """Compare the tables. Raises TailraceError unless each is equal; while the source is not
    ``frozen``, rows that change all the time do not matter. ``seconds`` are left for all of it;
    None is no limit. At most half of them go to the log, so that a comparison has the rest.
    """
    held = Holding({}, [])
    if parts.settings.verify == "changed":
        half = LOG_SECONDS if seconds is None else min(LOG_SECONDS, seconds / 2)
        held = await holding(parts, half)
    tables: list[TableReport] = []
    if held.names or not held.proofs:
        tables += (await parts.compare(held.names if held.proofs else ())).tables
    _require_equal(tables, bool(held.proofs), frozen=frozen)
    rows = sum(it.rows for it in tables)
    did = f"{len(tables)} tables with {rows:,} rows are equal"
    if held.proofs:
        did += (
            f"; {len(held.proofs)} more were found equal before, and the log has no change of them"
            " after that"
        )
    if held.reason:
        did += f"; every other table was compared, because {held.reason}"
    proven = [*map(_compared, tables), *(_held(id, it) for id, it in sorted(held.proofs.items()))]
    return Proven(tuple(proven), did)


def _require_equal(tables: list[TableReport], held: bool, *, frozen: bool) -> None:
    wrong = [it for it in tables if it.differing or it.missing or it.extra]
    if not wrong:
        wrong = [it for it in tables if not it.equal and (frozen or not it.hot)]
    if wrong or not (tables or held):
        names = ", ".join(sorted(it.table for it in wrong)[:5]) or "no table was compared"
        raise TailraceError(
            f"the target is not proven equal: {names}",
            hint="`tailrace verify CONFIG` lists the rows",
        )


def _compared(table: TableReport) -> ProvenTable:
    return ProvenTable(
        *(table.table, table.rows, table.started_at, table.seconds, table.position, table.method),
        checksum=table.target_checksum,
        replaced=tuple(
            f"{it.changed} in {it.column}: {it.values:,}" for it in table.replaced if it.values
        ),
    )


def _held(id: TableId, proof: TableProof) -> ProvenTable:
    seconds = proof.ended_at - proof.started_at
    return ProvenTable(
        *(str(id), proof.rows, proof.started_at, seconds, proof.position, proof.method),
        compared=False,
    )
