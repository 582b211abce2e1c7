"""
The report of a comparison: its content, its page, and that every change of it is found.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import msgspec
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)

from engine.cli.main import main
from engine.report.seal import BEFORE, BEHIND, check, content_hash, document
from engine.verify.content import Content
from engine.verify.page import page
from engine.verify.report import ColumnValues, Sample
from tests.support.engine_process import write_config
from tests.support.record_report import IMAGES, PICTURES
from tests.support.sample_reports import DIFFERENT, EQUAL, ORDERS, SAME, content, written

KEY = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
OTHER = Ed25519PrivateKey.from_private_bytes(bytes(range(1, 33)))


def test_each_picture_of_a_report_is_in_the_docs() -> None:
    names = {f"report-{name}.png" for name in PICTURES}
    assert names == {path.name for path in IMAGES.glob("report-*.png")}


def test_the_page_has_positions_as_people_read_them() -> None:
    before, _ = page(DIFFERENT, "", "", lambda position: f"the place of {position}")
    assert f"<code>the place of {ORDERS.position}</code>".encode() in before


def signed(shown: Content, key: Ed25519PrivateKey | None = KEY) -> bytes:
    plain = msgspec.to_builtins(shown)
    pieces = page(shown, content_hash(plain), "" if key is None else "some key")
    return document(plain, pieces, key).join(pieces)


def embedded(report: bytes) -> dict[str, Any]:
    made = json.loads(report.partition(BEFORE)[2].partition(BEHIND)[0])
    assert isinstance(made, dict)
    return made


def with_document(report: bytes, made: object) -> bytes:
    before, mark, rest = report.partition(BEFORE)
    text = json.dumps(made, sort_keys=True, separators=(",", ":")).replace("<", "\\u003c")
    return before + mark + text.encode() + BEHIND + rest.partition(BEHIND)[2]


def test_the_content_tells_what_was_compared_and_hides_masked_values() -> None:
    assert (EQUAL.outcome, DIFFERENT.outcome) == ("equal", "different")
    orders = next(table for table in DIFFERENT.tables if table.table == "shop.orders")
    assert (orders.source_rows, orders.target_rows, orders.milliseconds) == (61300, 61299, 3200)
    assert orders.began == "2026-09-21T14:13:22.000Z"
    assert orders.rows[0].values[0] == ColumnValues("total", "129.95", "129.59")
    assert orders.rows[1].values[2] == ColumnValues("email", None, None, hidden=True)
    assert "mail@example.org" not in str(DIFFERENT)
    assert [table.table for table in DIFFERENT.not_compared] == ["shop.audit"]
    left = msgspec.structs.replace(ORDERS, differing=0, missing=0, hot=1, inconclusive="too fast")
    assert content(left).outcome == "inconclusive"
    assert content().outcome == "inconclusive"  # nothing was compared


def test_the_content_has_one_form_as_bytes() -> None:
    """A fraction has several forms as text, so there is none."""

    def leaves(value: object) -> set[type]:
        if isinstance(value, dict):
            return set().union(*map(leaves, value.values()))
        if isinstance(value, list | tuple):
            return set().union(*map(leaves, value))
        return {type(value)}

    plain = msgspec.to_builtins(DIFFERENT)
    assert leaves(plain) <= {str, int, bool, type(None)}
    assert content_hash(json.loads(json.dumps(plain))) == content_hash(plain)


def test_a_long_value_is_shortened_to_the_place_where_it_differs() -> None:
    long = "x" * 1_000_000
    found = ColumnValues.of("c", long + "a" + long, long + "b" + long)
    assert found.source is not None
    assert found.target is not None
    assert found.source.replace("a", "b", 1) == found.target
    assert "a" in found.source
    assert len(found.source) < 250
    assert found.source.endswith("… (2,000,001 characters)")
    assert ColumnValues.of("c", long, None).source == f"{'x' * 200}… (1,000,000 characters)"
    assert ColumnValues.of("c", "short", "") == ColumnValues("c", "short", "")


class Elements(HTMLParser):
    """The elements, attributes and visible texts of a page."""

    def __init__(self, report: bytes) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.names: set[str] = set()
        self.seen: list[str] = []
        self.feed(report.decode())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.names.update(name for name, _ in attrs)

    def handle_data(self, data: str) -> None:
        if self.tags[-1:] not in (["script"], ["style"]):
            self.seen.append(data)


HOSTILE = (
    "</script><script>alert(1)</script><img src=x onerror=alert(1)>\u202e\x1b[2J'\"&<!--<script>"
)


def test_hostile_values_are_harmless() -> None:
    row = msgspec.structs.replace(
        ORDERS.differences[0],
        key=(HOSTILE,),
        values=(ColumnValues(HOSTILE, HOSTILE, HOSTILE),),
    )
    hostile = content(
        msgspec.structs.replace(
            *(ORDERS,), table=HOSTILE, position=HOSTILE, reason=HOSTILE, differences=(row,)
        )
    )
    hostile = msgspec.structs.replace(hostile, pipeline=HOSTILE, tailrace=HOSTILE)
    report = signed(hostile)
    found, plain = Elements(report), Elements(signed(content(ORDERS)))
    assert set(found.tags) <= {*plain.tags, "bdi"}
    assert found.tags.count("script") == 1
    assert found.names == plain.names
    assert "\u202e" not in report.decode()
    assert b"\x1b" not in report
    assert "\\u202e" in "".join(found.seen)
    assert embedded(report)["content"]["pipeline"] == HOSTILE
    assert check(report, KEY.public_key()).problems == ()


def test_a_sample_is_not_called_equal() -> None:
    sample = Sample.of(1_000, 990, {}, 0)
    made = content(SAME[0], msgspec.structs.replace(SAME[1], sample=sample))
    assert made.outcome == "sampled"
    assert [it.outcome for it in made.tables] == ["equal", "sampled"]
    seen = " ".join(Elements(written(made)).seen)
    assert "with 95% confidence less than 0.30 % of" in seen
    assert "not all rows were compared" in seen


def test_a_page_needs_nothing_else() -> None:
    found = Elements(written(DIFFERENT))
    assert not {"src", "srcset", "action", "onclick", "onload"} & found.names
    assert not {"link", "img", "iframe", "object", "form"} & set(found.tags)
    text = written(DIFFERENT).decode()
    assert re.findall(r'href="(?!#)|url\(|@import|https?:', text) == []
    seen = " ".join(found.seen)
    assert "129.95" in seen
    assert "zero dates that became NULL in" in seen
    assert "quarantined" in seen


def test_a_report_that_was_not_changed_passes() -> None:
    report = signed(DIFFERENT)
    public = KEY.public_key().public_bytes_raw().hex()
    assert check(report) == ((), content_hash(msgspec.to_builtins(DIFFERENT)), public)
    assert check(report, KEY.public_key()).problems == ()
    alone = json.dumps(embedded(report), indent=2).encode()
    assert check(alone, KEY.public_key()) == check(report)
    assert check(written(EQUAL)) == ((), content_hash(msgspec.to_builtins(EQUAL)), "")


def _tables(made: dict[str, Any]) -> list[dict[str, Any]]:
    tables = made["content"]["tables"]
    assert isinstance(tables, list)
    return tables


CHANGES: dict[str, tuple[Callable[[dict[str, Any]], object], str]] = {
    "a count": (lambda it: _tables(it)[3].update(missing=0), "table shop.orders was changed"),
    "a value": (
        lambda it: _tables(it)[3]["rows"][0]["values"][0].update(target="129.95"),
        "table shop.orders was changed",
    ),
    "the outcome": (
        lambda it: it["content"].update(outcome="equal"),
        "besides its tables",
    ),
    "a table less": (lambda it: _tables(it).pop(3), "table shop.orders was added or removed"),
    "a table twice": (lambda it: _tables(it).append(_tables(it)[0]), "was added or removed"),
    "the order": (lambda it: _tables(it).reverse(), "content was changed, or its hash"),
    "a hash": (lambda it: it.update(sha256="0" * 64), "content was changed, or its hash"),
    "a part's hash": (lambda it: it["parts"].update(summary="0" * 64), "hashes of the parts"),
    "the page's hash": (lambda it: it.update(page_sha256="0" * 64), "page around"),
    "a name more": (lambda it: it.update(more=1), "form was changed"),
    "no tables": (lambda it: it["content"].pop("tables"), "has no tables"),
    "no signature": (lambda it: it.update(signature=None), "not signed"),
    "a signature": (lambda it: it["signature"].update(value="00" * 64), "signature is not one"),
    "no number": (lambda it: it["signature"].update(value="no"), "signature is not one"),
    "the key": (
        lambda it: it["signature"].update(public_key=OTHER.public_key().public_bytes_raw().hex()),
        "signature is not one",
    ),
}


@pytest.mark.parametrize("name", CHANGES)
def test_a_change_of_the_document_is_found_and_named(name: str) -> None:
    change, words = CHANGES[name]
    made = embedded(signed(DIFFERENT))
    change(made)
    found = check(with_document(signed(DIFFERENT), made), KEY.public_key())
    assert any(words in problem for problem in found.problems), found.problems


def test_any_changed_byte_is_found() -> None:
    report = signed(DIFFERENT)
    for place in range(0, len(report), 97):
        changed = report[:place] + bytes([report[place] ^ 1]) + report[place + 1 :]
        assert check(changed, KEY.public_key()).problems, report[place - 20 : place + 20]
    for cut in (0, 10, len(report) // 2, len(report) - 1):
        assert check(report[:cut], KEY.public_key()).problems
    assert check(report + b" ", KEY.public_key()).problems == (
        "the page around the report was changed",
        "the signature is not one of this report",
    )


def test_hashes_that_were_computed_anew_do_not_pass_with_a_key() -> None:
    forged = signed(EQUAL, OTHER)
    assert check(forged).problems == ()
    (problem,) = check(forged, KEY.public_key()).problems
    assert "another key" in problem
    assert check(signed(EQUAL, None), KEY.public_key()).problems == ("the report is not signed",)


@pytest.mark.parametrize(
    "damaged",
    [
        b"",
        b"{}",
        b"[1]",
        b"<html></html>",
        b"{" * 100_000,
        b'{"a":' * 100_000,
        b'{"content": 1}',
        b"\xff\xfe",
        BEFORE + b"{}<b></b>" + BEHIND,
    ],
)
def test_what_is_no_report_is_refused(damaged: bytes) -> None:
    assert len(check(damaged).problems) == 1


def test_a_name_that_occurs_twice_is_refused() -> None:
    """Readers of JSON differ about which one counts."""
    report = signed(DIFFERENT)
    twice = report.replace(b'"outcome":"different"', b'"outcome":"equal","outcome":"different"', 1)
    assert twice != report
    assert check(twice).problems


def test_a_report_that_cannot_be_written_or_signed_is_refused_before_the_comparison(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = write_config(tmp_path, "mysql://r@127.0.0.1:1/a", "postgresql://127.0.0.1:1/a", "a.*")
    wrong = tmp_path / "wrong.pem"
    wrong.write_text("no key")
    report = str(tmp_path / "r.html")
    for words, said in (
        (["--report", "r.pdf"], ".html or .json"),
        (["--report", str(tmp_path / "none" / "r.html")], "cannot be written"),
        (["--sign", str(wrong)], "--sign signs a report"),
        (["--report", report, "--sign", str(wrong)], "no private Ed25519 key"),
        (["--report", report, "--sign", str(tmp_path / "none.pem")], "cannot read"),
    ):
        assert main(["verify", str(config), *words]) == 2
        assert said in capsys.readouterr().err
    assert not Path(report).exists()


def test_the_command_checks_a_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    public, private, report = tmp_path / "pub.pem", tmp_path / "key.pem", tmp_path / "r.html"
    public.write_bytes(
        KEY.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    )
    private.write_bytes(KEY.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    report.write_bytes(signed(DIFFERENT))
    words = ["report", "verify", str(report)]
    assert main([*words, "--key", str(public)]) == 0
    assert content_hash(msgspec.to_builtins(DIFFERENT)) in capsys.readouterr().out
    report.write_bytes(signed(DIFFERENT).replace(b"129.59", b"129.95"))
    assert main(words) == 1
    shown = capsys.readouterr().out
    assert "changed: the content about the table shop.orders was changed" in shown
    assert "changed: the page around the report was changed" in shown
    assert main([*words, "--key", str(private)]) == 2
    assert main(["report", "verify", str(tmp_path / "none.html")]) == 2
    assert "cannot read" in capsys.readouterr().err
