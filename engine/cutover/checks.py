"""
What has to hold before a cutover, and the tables for which it does not. Pure.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final, NamedTuple

from engine.checkpoint import TableProgress
from engine.contract import State
from engine.handover import Client
from engine.proof import TableProof
from engine.schema import TableId
from engine.settings.cutover import CutoverSettings
from engine.toolkit.schema_diff import Difference

__all__ = [
    "Refusal",
    "client_findings",
    "engine_refusals",
    "hook_findings",
    "proof_refusals",
    "proof_warnings",
    "schema_findings",
    "table_refusals",
]

#: So many tables are named in one refusal.
_NAMED: Final = 5


class Refusal(NamedTuple):
    """Why a cutover cannot begin, or go on, and what to do."""

    reason: str
    remedy: str


def hook_findings(settings: CutoverSettings) -> tuple[list[Refusal], list[str]]:
    """The refusals and the warnings about what the configuration lacks."""
    refusals: list[Refusal] = []
    warnings: list[str] = []
    if not settings.switch.given:
        refusals.append(
            Refusal(
                "nothing is configured that switches the applications",
                "set switch = { command = [...] } or { url = ... } in [cutover]",
            )
        )
    elif not settings.switch_back.given:
        warnings.append(
            "no hook switch_back is configured: once the switch was begun, an abort needs --force,"
            " and puts the source back, but not the applications"
        )
    unsigned = [name for name, hook in settings.hooks.items() if hook.url and not hook.secret]
    if unsigned:
        names = ", ".join(unsigned)
        warnings.append(
            f"webhooks without a signature: {names}: give each a secret, so that the receiver can"
            " tell that Tailrace has sent it"
        )
    return refusals, warnings


def engine_refusals(state: State | None, *, runs: bool) -> list[Refusal]:
    """Whether an engine is there that can apply the rest of the log."""
    if state is None or state.checkpoint is None:
        return [Refusal("the pipeline has never run", "start it: `tailrace run CONFIG`")]
    if state.checkpoint.paused:
        return [Refusal("the pipeline is paused", "`tailrace resume CONFIG`")]
    if not runs:
        return [
            Refusal(
                "no engine is connected to the target, so nothing applies the rest of the log",
                "`tailrace run CONFIG` starts one; leave it running",
            )
        ]
    return []


def table_refusals(
    progress: Mapping[TableId, TableProgress],
    outdated: Mapping[TableId, str],
    letters: Mapping[TableId, int],
) -> list[Refusal]:
    """The tables that are not as the source has them, nor will be by the stream alone."""
    followed = {id: it for id, it in progress.items() if it.state != "excluded"}
    quarantined = [id for id, it in followed.items() if it.state == "quarantined"]
    open_ = [
        id
        for id, it in followed.items()
        if id not in quarantined and (it.state != "live" or it.again)
    ]
    found: list[Refusal] = []
    if not followed:
        found.append(Refusal("the pipeline follows no table", "correct tables in [source]"))
    if quarantined:
        remedy = "`tailrace tables CONFIG` says what to do for each"
        found.append(Refusal(f"quarantined: {_names(quarantined)}", remedy))
    if open_:
        remedy = "wait until `tailrace status CONFIG` shows them live"
        found.append(Refusal(f"not backfilled to the end: {_names(open_)}", remedy))
    for id, reason in sorted(outdated.items()):
        if id in followed:
            remedy = (
                "`tailrace check CONFIG` says what becomes of its rows: start the engine again with"
                " this configuration and wait until the table is live, or undo the edit"
            )
            found.append(Refusal(f"{id}: {reason}", remedy))
    if letters:
        text = f"{sum(letters.values())} open dead letters of {_names(letters)}"
        found.append(Refusal(text, "`tailrace dead-letters CONFIG list` shows them"))
    return found


def proof_refusals(
    progress: Mapping[TableId, TableProgress],
    proofs: Mapping[TableId, TableProof],
    now: float,
    most_seconds: float,
) -> list[Refusal]:
    """The tables that were not found equal lately."""
    live = [id for id, it in progress.items() if it.state == "live"]
    different = [id for id in live if id in proofs and proofs[id].outcome == "different"]
    old = [
        id
        for id in live
        if id not in different
        and (id not in proofs or now - (proofs[id].equal_at or 0.0) > most_seconds)
    ]
    found: list[Refusal] = []
    if different:
        remedy = "`tailrace verify CONFIG --repair` shows the rows, and asks to repair them"
        found.append(Refusal(f"different from the source: {_names(different)}", remedy))
    if old:
        text = f"not found equal within {most_seconds:g} s: {_names(old)}"
        remedy = "`tailrace verify CONFIG` compares them"
        if not proofs:
            # A table of an older layout is not read.
            remedy += "; after an upgrade, start the engine of this version once before that"
        found.append(Refusal(text, remedy))
    return found


def proof_warnings(
    progress: Mapping[TableId, TableProgress], proofs: Mapping[TableId, TableProof]
) -> list[str]:
    """The tables whose rows are not those that were found equal, which has no position then."""
    other = [
        id
        for id, it in progress.items()
        if it.state == "live" and id in proofs and proofs[id].equal_at and not proofs[id].position
    ]
    if not other:
        return []
    what = "backfilled again, or open to applications by a switch, since they were found equal"
    return [f"{what}: {_names(other)}: `tailrace verify CONFIG` compares them"]


def schema_findings(
    differences: Sequence[Difference], *, required: bool, foreign_keys_wait: bool
) -> tuple[list[Refusal], list[str]]:
    """The refusals and the warnings about what the target lacks.

    What ``tailrace schema apply`` can create is a refusal if it is ``required``. The rest are
    warnings: comments, on which no application relies; what a person has to create or to decide;
    and foreign keys that have to wait until the engine has ended. A sequence that a statement sets
    is neither, because the cutover sets it.
    """
    open_ = [
        it for it in differences if not it.note and not (it.kind == "sequence" and it.statements)
    ]
    ours = [it for it in open_ if it.statements and it.kind != "comment"]
    keys = [it for it in ours if it.kind == "foreign key"]
    parts = [it for it in ours if it.kind != "foreign key"]
    lacks = "schema not complete"
    refusals: list[Refusal] = []
    warnings: list[str] = []
    if parts:
        remedy = "`tailrace schema apply CONFIG` creates them"
        refusals.append(Refusal(f"{lacks}: {_parts(parts)}", remedy))
    if keys and foreign_keys_wait:
        remedy = "`tailrace schema apply CONFIG --foreign-keys` after the engine has ended"
        warnings.append(f"{lacks}: {_parts(keys)}: {remedy}")
    elif keys:
        remedy = "`tailrace schema apply CONFIG --foreign-keys` creates them"
        refusals.append(Refusal(f"{lacks}: {_parts(keys)}", remedy))
    if not required:
        warnings += [f"{it.reason}: {it.remedy}" for it in refusals]
        refusals = []
    if others := [it for it in open_ if it not in ours]:
        text = f"the schemas differ: {_parts(others)}"
        warnings.append(f"{text}: `tailrace schema diff CONFIG` says what to do")
    return refusals, warnings


def client_findings(clients: Sequence[Client]) -> tuple[list[Refusal], list[str]]:
    """The refusals and the warnings about others that may write to the target."""
    remedy = "end these sessions: before the switch only Tailrace writes to the target"
    refusals = [
        Refusal(f"another session writes to the target's tables: {it.name}", remedy)
        for it in clients
        if it.writes
    ]
    names = ", ".join(f"{it.name} ({it.sessions})" for it in clients if not it.writes)
    warnings = [f"connected to the target with the right to write: {names}"] if names else []
    return refusals, warnings


def _parts(differences: Sequence[Difference]) -> str:
    """The first differences, each with its kind, its name and its table."""
    shown = [
        f"{it.state} {it.kind} {it.name + ' ' if it.name else ''}of {it.table}"
        for it in differences[:_NAMED]
    ]
    more = len(differences) - _NAMED
    return ", ".join(shown) + (f" and {more} more" if more > 0 else "")


def _names(ids: Mapping[TableId, object] | list[TableId]) -> str:
    names = sorted(map(str, ids))
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return ", ".join(names[:_NAMED]) + more
