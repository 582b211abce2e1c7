"""What has to hold before a cutover."""

from __future__ import annotations

import msgspec
import pytest

from engine.checkpoint import Checkpoint, TableProgress
from engine.contract import State
from engine.cutover.checks import (
    Refusal,
    client_findings,
    engine_refusals,
    hook_findings,
    proof_refusals,
    proof_warnings,
    schema_findings,
    table_refusals,
)
from engine.cutover.proving import divided
from engine.errors import ConfigError
from engine.handover import Client
from engine.proof import TableProof
from engine.schema import TableId
from engine.settings.cutover import CutoverSettings, HookSettings
from engine.structure import ItemKind
from engine.toolkit.schema_diff import Difference
from tests.support.web_hooks import SECRET

A, B = TableId("shop", "a"), TableId("shop", "b")
LIVE = TableProgress("live")


def reasons(refusals: list[Refusal]) -> list[str]:
    return [it.reason for it in refusals]


@pytest.mark.parametrize(
    ("progress", "expected"),
    [
        ({A: LIVE, B: TableProgress("excluded")}, []),
        ({}, ["the pipeline follows no table"]),
        ({A: LIVE, B: TableProgress("quarantined")}, ["quarantined: shop.b"]),
        ({A: TableProgress("pending"), B: LIVE}, ["not backfilled to the end: shop.a"]),
        ({A: TableProgress("live", again=True)}, ["not backfilled to the end: shop.a"]),
    ],
)
def test_tables_that_are_not_live(
    progress: dict[TableId, TableProgress], expected: list[str]
) -> None:
    assert reasons(table_refusals(progress, {}, {})) == expected


def test_outdated_tables_and_dead_letters() -> None:
    found = table_refusals({A: LIVE, B: LIVE}, {A: "another policy"}, {B: 3})
    assert reasons(found) == ["shop.a: another policy", "3 open dead letters of shop.b"]
    assert "`tailrace check CONFIG`" in found[0].remedy


def test_proofs() -> None:
    """GIVEN a table that is different, one whose proof is old, and one without a proof."""
    c = TableId("shop", "c")
    progress = {A: LIVE, B: LIVE, c: LIVE}
    equal = TableProof("equal", 950.0, 951.0, equal_at=950.0)
    different = TableProof("different", 950.0, 951.0, equal_at=940.0)
    late = TableProof("inconclusive", 950.0, 951.0, equal_at=100.0)
    assert proof_refusals(progress, dict.fromkeys(progress, equal), 1000.0, 60.0) == []
    found = proof_refusals(progress, {A: different, B: late}, 1000.0, 60.0)
    assert reasons(found) == [
        "different from the source: shop.a",
        "not found equal within 60 s: shop.b, shop.c",
    ]
    assert "after an upgrade" not in found[1].remedy
    (none,) = proof_refusals(progress, {}, 1000.0, 60.0)
    assert "after an upgrade, start the engine" in none.remedy


def test_a_table_that_was_backfilled_after_its_proof() -> None:
    progress = {A: LIVE, B: LIVE}
    proof = TableProof("equal", 950.0, 951.0, "7", equal_at=950.0)
    assert proof_warnings(progress, {A: proof, B: proof}) == []
    (text,) = proof_warnings(progress, {A: proof, B: msgspec.structs.replace(proof, position="")})
    assert "found equal: shop.b: `tailrace verify CONFIG`" in text


def missing(kind: ItemKind, name: str, *statements: str) -> Difference:
    return Difference(kind, "shop.a", name, "missing", statements=statements)


def test_what_the_schema_lacks() -> None:
    """GIVEN parts that a statement creates, and others WHEN the schema is required THEN the former
    are refusals with their command, and the rest are warnings."""
    key = missing("foreign key", "of", "ALTER")
    found = [
        *(missing("identity", "id", "ALTER"), missing("index", "by_name", "CREATE"), key),
        *(missing("comment", "", "COMMENT"), missing("view", "sums")),
        missing("sequence", "id", "SELECT setval()"),
        Difference("table", "shop.a", "note 1", "missing", note=True),
    ]
    refusals, warnings = schema_findings(found, required=True, foreign_keys_wait=False)
    assert reasons(refusals) == [
        "schema not complete: missing identity id of shop.a, missing index by_name of shop.a",
        "schema not complete: missing foreign key of of shop.a",
    ]
    assert "`tailrace schema apply CONFIG`" in refusals[0].remedy
    assert "--foreign-keys" in refusals[1].remedy
    (text,) = warnings
    assert "missing comment of shop.a, missing view sums of shop.a: `tailrace schema diff" in text
    refusals, warnings = schema_findings([key], required=True, foreign_keys_wait=True)
    assert (refusals, "after the engine has ended" in warnings[0]) == ([], True)
    refusals, warnings = schema_findings(found, required=False, foreign_keys_wait=False)
    assert (refusals, len(warnings)) == ([], 3)
    assert schema_findings([], required=True, foreign_keys_wait=False) == ([], [])


def test_others_that_write_to_the_target() -> None:
    refusals, warnings = client_findings([Client("etl", 2, True), Client("shop, app", 3, False)])
    assert reasons(refusals) == ["another session writes to the target's tables: etl"]
    assert warnings == ["connected to the target with the right to write: shop, app (3)"]


def test_tables_that_are_merged_are_compared_together() -> None:
    """GIVEN a merged table of which one share has changed, and one that has not."""
    c = TableId("shop", "c")
    proof = TableProof("equal", 950.0, 951.0, "7", equal_at=950.0)
    held = divided([[A, B], [c]], {A: proof, c: proof})
    assert (list(held.proofs), held.names) == ([c], ["shop.a", "shop.b"])
    held = divided([[A, B], [c], []], {A: proof, B: proof, c: proof}, "why")
    assert (list(held.proofs), held.names, held.reason) == ([A, B, c], [], "why")
    assert divided([[A]], {}).names == ["shop.a"]


def test_the_engine_and_the_hook() -> None:
    state = State(1, Checkpoint("p", 1, "here"), ())
    paused = State(1, Checkpoint("p", 1, "here", paused=True), ())
    assert engine_refusals(state, runs=True) == []
    assert reasons(engine_refusals(paused, runs=True)) == ["the pipeline is paused"]
    assert reasons(engine_refusals(None, runs=False)) == ["the pipeline has never run"]
    assert "no engine" in engine_refusals(state, runs=False)[0].reason


def test_hooks_that_are_missing_or_not_signed() -> None:
    call, web = HookSettings(("true",)), HookSettings(url="http://127.0.0.1/switch")
    signed = HookSettings(url=web.url, secret=SECRET)
    refusals, warnings = hook_findings(CutoverSettings())
    assert (reasons(refusals), warnings) == (
        ["nothing is configured that switches the applications"],
        [],
    )
    refusals, (back,) = hook_findings(CutoverSettings(switch=call))
    assert refusals == []
    assert "no hook switch_back is configured" in back
    assert "--force" in back
    assert hook_findings(CutoverSettings(switch=signed, switch_back=call)) == ([], [])
    some = CutoverSettings(switch=web, switch_back=web, freeze=call, thaw=signed)
    _, (unsigned,) = hook_findings(some)
    assert "without a signature: switch, switch_back: give each a secret" in unsigned


def test_hooks_that_are_wrong() -> None:
    with pytest.raises(ConfigError, match="belong together"):
        CutoverSettings(freeze=HookSettings(("true",)))
    with pytest.raises(ConfigError, match="a url and a command"):
        HookSettings(("true",), "https://there")
    with pytest.raises(ConfigError, match="needs a url"):
        HookSettings(secret="whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")
