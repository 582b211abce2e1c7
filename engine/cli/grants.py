"""
``tailrace check --grants``: the statements that give the users of a configuration their rights.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import closing, suppress

import msgspec

from engine.cli.output import print_json, write_records
from engine.cli.wiring import make_mapping, make_sink, make_source
from engine.contract import SnapshotSource
from engine.errors import TailraceError
from engine.ops.log import printable
from engine.rights import Grants, HandoverRights, SinkRights, SourceRights
from engine.schema import Table
from engine.settings.cutover import CutoverSettings
from engine.settings.loader import Settings

__all__ = ["show_grants"]


class NeededGrants(msgspec.Struct, frozen=True):
    """The rights of both users; None for a source or a target that has no users."""

    source: Grants | None
    target: Grants | None


def show_grants(settings: Settings, *, as_json: bool) -> int:
    """Print the statements, as SQL or as JSON. Returns the exit status."""
    needed = asyncio.run(_needed(settings))
    if as_json:
        print_json(needed)
        return 0
    lines: list[str] = []
    for side, grants in (("source", needed.source), ("target", needed.target)):
        lines += [] if not lines else [""]
        lines += [f"-- The {side} needs no rights."] if grants is None else _sql(side, grants)
    write_records([f"{line}\n".encode() for line in lines])
    return 0


async def _needed(settings: Settings) -> NeededGrants:
    found: Grants | None = None
    tables: list[Table] = []
    with closing(make_source(settings)) as source:
        if isinstance(source, SourceRights):
            found = await asyncio.to_thread(source.grants, _handover(settings.cutover))
        if isinstance(source, SnapshotSource):
            # The user may not exist yet.
            with suppress(TailraceError):
                tables = await asyncio.to_thread(source.catalog)
    sink = make_sink(settings)
    target = None
    if isinstance(sink, SinkRights):
        target = await sink.grants(make_mapping(settings).check(tables))
    return NeededGrants(found, target)


def _handover(settings: CutoverSettings) -> HandoverRights | None:
    """The rights of a cutover, if one is configured."""
    if settings == CutoverSettings():
        return None
    return HandoverRights(freezes=not settings.freeze.given)


def _sql(side: str, grants: Grants) -> Iterator[str]:
    """A script, with what each right is for."""
    yield f"-- The {side}: {printable(grants.server)}"
    yield f"-- {printable(grants.create)}"
    reason = ""
    for grant in grants.grants:
        if grant.reason != reason:
            reason = grant.reason
            yield f"-- {reason}"
        yield printable(grant.statement)
