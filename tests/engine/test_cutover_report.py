"""
The report of a cutover: its content, its page, and that a change of it is found.
"""

from __future__ import annotations

import json
import re
from pathlib import Path

import msgspec
import pytest

from engine.cli.main import main
from engine.cutover.content import make_content
from engine.cutover.page import page
from engine.handover import Cutover
from engine.report.seal import check, content_hash, document
from tests.support.engine_process import write_config
from tests.support.sample_reports import CUTOVER, REHEARSAL, cutover_page

HOSTILE = "</script><script>alert(1)</script>\u202e\x1b[2J'\"&<!--"


def test_the_content_is_that_of_the_record() -> None:
    content = make_content(CUTOVER)
    assert (content.outcome, content.downtime_milliseconds) == ("switched", 1772)
    assert (content.predicted_milliseconds, content.predicted_at[:4]) == (2093, "2026")
    verify = next(it for it in content.steps if it.step == "verify")
    assert (verify.milliseconds, verify.predicted_milliseconds) == (493, 801)
    assert "--abort" in verify.undo
    assert [it.compared for it in content.tables].count(False) == 1
    assert make_content(REHEARSAL).outcome == "rehearsed"
    left = msgspec.structs.replace(CUTOVER, state="switch", switched_at=None)
    assert make_content(left).outcome == "under way"
    plain = msgspec.to_builtins(content)
    assert content_hash(json.loads(json.dumps(plain))) == content_hash(plain)
    assert not re.search(r"\d\.\d+e|: -?\d+\.\d", json.dumps(plain))  # no fraction


@pytest.mark.parametrize("shown", [CUTOVER, REHEARSAL], ids=["cutover", "rehearsal"])
def test_the_page_needs_nothing_else_and_has_a_seal(shown: Cutover) -> None:
    report = cutover_page(shown)
    assert check(report).problems == ()
    text = report.decode()
    assert re.findall(r'href="(?!#)|url\(|@import|https?:', text) == []
    for word in ("How to undo it", "Predicted", "shop.customer", "MySQL 9.7.4", "in due: 17"):
        assert word in text
    changed = report.replace(b'"rows":40000', b'"rows":40001')
    assert "table shop.customer was changed" in check(changed).problems[0]
    changed = report.replace(b'"by":"ana@console"', b'"by":"eve@console"')
    assert "besides its tables" in check(changed).problems[0]


def test_the_page_has_positions_as_people_read_them() -> None:
    content = make_content(CUTOVER)
    before, _ = page(content, "", "", lambda position: f"the place of {position}")
    for position in (CUTOVER.start, CUTOVER.end, CUTOVER.proofs[-1].position):
        assert f"<code>the place of {position}</code>".encode() in before


def test_what_an_aborted_cutover_tells() -> None:
    aborted = msgspec.structs.replace(
        *(CUTOVER,), state="aborted", switched_at=None, reason="the log did not stand still"
    )
    text = cutover_page(aborted).decode()
    assert "Aborted: the source takes writes as before." in text
    assert "the log did not stand still" in text


def test_hostile_texts_are_harmless() -> None:
    step = msgspec.structs.replace(CUTOVER.steps[0], did=HOSTILE, undo=HOSTILE)
    table = msgspec.structs.replace(CUTOVER.proofs[0], table=HOSTILE, position=HOSTILE)
    hostile = make_content(
        msgspec.structs.replace(
            *(CUTOVER,),
            **dict.fromkeys(("id", "by", "reason", "start", "end", "before", "pipeline"), HOSTILE),
            steps=(step,),
            proofs=(table,),
            warnings=(HOSTILE,),
        )
    )
    plain = msgspec.to_builtins(hostile)
    pieces = page(hostile, content_hash(plain), "")
    report = document(plain, pieces, None).join(pieces)
    assert report.count(b"<script") == 1
    assert b"\x1b" not in report
    assert "\u202e" not in report.decode()
    assert check(report).problems == ()


def test_a_dry_run_has_no_report(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = write_config(tmp_path, "mysql://r@127.0.0.1:1/a", "postgresql://127.0.0.1:1/a", "a.*")
    words = ["cutover", str(config), "--dry-run", "--report", str(tmp_path / "r.html")]
    assert main(words) == 2
    assert "a dry run has no report" in capsys.readouterr().err
