"""
What the mapping knows about collations is what the servers do.
"""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest

from engine.mapping.text import case_converter, equal_form, like_form
from tests.support.record_collations import PATH, record
from tests.support.servers import AnyServer


@pytest.mark.slow
@pytest.mark.parametrize("name", ["mysql", "mariadb_11"])
def test_the_recorded_collations_are_those_of_the_server(
    request: pytest.FixtureRequest, name: str, fresh_mysql_database: Callable[[AnyServer], str]
) -> None:
    server: AnyServer = request.getfixturevalue(name)
    stored = json.loads(PATH.read_text("utf-8"))
    for kind, known in record(server, fresh_mysql_database(server)).items():
        for collation, content in known.items():
            assert content == stored[kind][collation], collation


@pytest.mark.parametrize(
    ("collation", "text", "equal"),
    [
        ("utf8mb4_general_ci", "É ", "e"),
        ("utf8mb4_general_ci", "ß", "s"),
        ("utf8mb4_unicode_ci", "ß", "ss"),
        ("utf8mb4_0900_ai_ci", "Ⓐ\u0301", "a"),
        ("utf8mb4_0900_ai_ci", "a ", "a "),
        ("utf8mb4_uca1400_ai_ci", "Æ", "ae"),
        ("uca1400_nopad_ai_ci", "a ", "a "),
        ("latin1_swedish_ci", "Ü", "y"),
        ("utf8mb4_bin", "É ", "É"),
        ("utf8mb4_0900_bin", "É ", "É "),
        ("ascii_general_ci", "A ", "a"),
    ],
)
def test_forms_of_equal_texts(collation: str, text: str, equal: str) -> None:
    form = equal_form(collation)
    assert form is not None
    assert form(text) == equal


def test_a_character_of_two_letters_is_none_for_like() -> None:
    form = like_form("utf8mb4_unicode_ci")
    assert form is not None
    assert form("Éß") == "eß"


def test_what_is_not_known() -> None:
    assert equal_form("utf8mb4_tr_0900_ai_ci") is None
    assert equal_form("utf8mb4_0900_as_cs") is None
    assert case_converter("utf8mb4_unicode_520_ci", "lower") is None
    assert case_converter("latin2_general_ci", "upper") is None


def test_mysql_cuts_what_grows() -> None:
    lower = case_converter("utf8mb4_0900_ai_ci", "lower")
    assert lower is not None
    assert lower("AÉİ") == "aéi"
    assert lower("xȺyz") == "xⱥy"
