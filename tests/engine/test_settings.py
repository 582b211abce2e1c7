"""The configuration: what is accepted, how errors name the line, and that secrets stay secret."""

from __future__ import annotations

import re
import tomllib
from itertools import pairwise
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.errors import ConfigError
from engine.settings import registry
from engine.settings.api import ApiSettings
from engine.settings.cutover import CutoverSettings
from engine.settings.loader import (
    BackfillSettings,
    BatchSettings,
    ErrorSettings,
    LogSettings,
    PipelineSettings,
    RetrySettings,
    Settings,
    TelemetrySettings,
    load,
)
from engine.settings.mapping import MaskSettings, TableRules
from engine.settings.notify import NotifySettings
from engine.settings.secrets import redact, resolve
from engine.settings.verify import VerifySettings
from sinks import SINKS
from sources import SOURCES

REFERENCE = Path(__file__).parents[2] / "config" / "reference.toml"
SECTIONS: dict[str, type[msgspec.Struct]] = {
    "pipeline": PipelineSettings,
    "backfill": BackfillSettings,
    "batch": BatchSettings,
    "errors": ErrorSettings,
    "mapping": TableRules,
    "mask": MaskSettings,
    "retry": RetrySettings,
    "api": ApiSettings,
    "log": LogSettings,
    "notify": NotifySettings,
    "telemetry": TelemetrySettings,
    "verify": VerifySettings,
    "cutover": CutoverSettings,
}


class SourceStruct(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    url: str
    tables: tuple[str, ...]
    server_id: int = 0

    def __post_init__(self) -> None:
        if self.server_id < 0:
            raise ConfigError("server_id is negative", hint="choose another")


class SinkStruct(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    url: str
    schema: str = ""


def source_type(scheme: str) -> type[msgspec.Struct]:
    registered: type[msgspec.Struct] = registry.load(scheme, SOURCES, "tailrace.sources").Settings
    return SourceStruct if scheme == "mysql" else registered


def read(tmp_path: Path, more: str = "", *, source: str = "", sink: str = "") -> Settings:
    path = tmp_path / "shop.toml"
    source = source or 'url = "mysql://u@h/"\ntables = ["shop.*"]'
    sink = sink or 'url = "postgresql://h/shop"'
    path.write_text(f"[source]\n{source}\n[sink]\n{sink}\n{more}", encoding="utf-8")
    return load(path, source_type, lambda scheme: SinkStruct)


def refused(tmp_path: Path, more: str = "", **parts: str) -> tuple[str, str]:
    with pytest.raises(ConfigError) as caught:
        read(tmp_path, more, **parts)
    assert caught.value.exit_status == 2
    return caught.value.message.removeprefix(f"{tmp_path}/"), caught.value.hint


def test_the_smallest_configuration_has_all_defaults(tmp_path: Path) -> None:
    settings = read(tmp_path)
    assert settings.pipeline.name == "shop"
    assert (settings.source_scheme, settings.sink_scheme) == ("mysql", "postgresql")
    assert settings.source == SourceStruct("mysql://u@h/", ("shop.*",))
    assert settings.sink == SinkStruct("postgresql://h/shop")
    assert settings.batch == BatchSettings()
    assert settings.backfill == BackfillSettings()


def test_values_are_read(tmp_path: Path) -> None:
    settings = read(tmp_path, '[pipeline]\nname = "p"\n[batch]\nmax_rows = 7\nmax_age_seconds = 2')
    assert settings.pipeline.name == "p"
    assert settings.batch == BatchSettings(max_rows=7, max_age_seconds=2.0)


@pytest.mark.parametrize(
    ("more", "message", "hint"),
    [
        ("[batch]\nmax_rowz = 1", "shop.toml:7: batch.max_rowz: the key is unknown", "'max_rows'?"),
        ("[bacth]\nmax_rows = 1", "shop.toml:6: bacth: the key is unknown", "'batch'?"),
        ("[batch]\n\nmax_rows = '1'", "shop.toml:8: batch.max_rows: expected a whole", "reference"),
        ("[batch]\nmax_rows = 0", "shop.toml:7: batch.max_rows: expected a whole number >= 1", ""),
        ("[retry]\nmax_seconds = true", "shop.toml:7: retry.max_seconds: expected a number", ""),
        ("[backfill]\nmode = 'initail'", "shop.toml:7: backfill.mode: ", "'initial'? allowed are"),
        ("[log]\nlevel = 'loud'", "shop.toml:7: log.level: ", "debug, info, warning, error"),
        ("[log]\nlevel = 3", "shop.toml:7: log.level: ", ""),
        ("[log\n", "shop.toml is not TOML", ""),
    ],
)
def test_an_error_names_line_key_and_remedy(
    tmp_path: Path, more: str, message: str, hint: str
) -> None:
    found, advice = refused(tmp_path, more)
    assert found.startswith(message)
    assert hint in advice


def test_names_of_version_0_1_are_still_read(tmp_path: Path) -> None:
    settings = read(tmp_path, "[snapshot]\nchunk_rows = 7\nround_seconds = 0.5")
    assert settings.backfill == BackfillSettings(chunk_rows=7, slice_seconds=0.5)
    message, advice = refused(tmp_path, "[backfill]\nreaders = 1\n[snapshot]\nreaders = 2")
    assert message.startswith("shop.toml:8: snapshot: the key is named backfill now")
    assert advice == "delete snapshot"


def test_keys_of_the_source_are_checked_by_its_own_struct(tmp_path: Path) -> None:
    message, hint = refused(tmp_path, source='url = "mysql://h"\ntabels = []\n')
    assert message == "shop.toml:3: source.tabels: the key is unknown"
    assert hint == "did you mean 'tables'? [source] takes url, tables, server_id"
    message, _ = refused(tmp_path, source='url = "mysql://h"')
    assert message == "shop.toml:1: source.tables: the key is missing"
    message, _ = refused(tmp_path, source='url = "mysql://h"\ntables = [1]')
    assert message == "shop.toml:3: source.tables: expected a text, got a whole number"


def test_an_error_of_the_struct_names_the_file(tmp_path: Path) -> None:
    message, hint = refused(tmp_path, source='url = "mysql://h"\ntables = []\nserver_id = -1')
    assert (message, hint) == ("shop.toml: server_id is negative", "choose another")


def test_an_unknown_scheme_lists_the_known_ones(tmp_path: Path) -> None:
    message, hint = refused(tmp_path, source='url = "mysqll://h"')
    assert message.startswith("shop.toml:2: source.url: ")
    assert hint.startswith("did you mean 'mysql:'? known are mariadb, memory, mysql, mysql-binlog")
    message, _ = refused(tmp_path, source='url = "nothing"')
    assert message == "shop.toml:2: source.url: this is not a URL"
    message, _ = refused(tmp_path, source="tables = []")
    assert message == "shop.toml:1: source.url: the key is missing"


def test_a_file_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"nowhere\.toml cannot be read: No such file"):
        load(tmp_path / "nowhere.toml", source_type, lambda scheme: SinkStruct)
    (tmp_path / "latin1.toml").write_bytes(b'name = "\xe4"')
    with pytest.raises(ConfigError, match="not UTF-8"):
        load(tmp_path / "latin1.toml", source_type, lambda scheme: SinkStruct)


# -- secrets ---------------------------------------------------------------------------------------

SECRET = "p@s/s:w%rd ?#"
ENCODED = "p%40s%2Fs%3Aw%25rd%20%3F%23"


@pytest.fixture(autouse=True)
def secrets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PASSWORD", SECRET)
    monkeypatch.setenv("WHOLE", f"mysql://u:{ENCODED}@h:3306/shop")
    monkeypatch.setenv("HOST", "db.example:3307")
    monkeypatch.setenv("EMPTY", "")
    monkeypatch.delenv("MISSING", raising=False)
    (tmp_path / "secret").write_text(f"{SECRET}\n")


@pytest.mark.parametrize(
    ("text", "result"),
    [
        ("plain $ { } text", "plain $ { } text"),
        ("${PASSWORD}", SECRET),
        ("a ${PASSWORD} b", f"a {SECRET} b"),
        ("$${PASSWORD}", "${PASSWORD}"),
        ("${MISSING:-x:-y}", "x:-y"),
        ("${EMPTY:-x}", "x"),
        ("${EMPTY}", ""),
        ("file:secret", SECRET),
        ("${file:secret}!", f"{SECRET}!"),
        ("${WHOLE}", f"mysql://u:{ENCODED}@h:3306/shop"),
        ("mysql://u:${PASSWORD}@h/", f"mysql://u:{ENCODED}@h/"),
        ("mysql://${PASSWORD}:x@${HOST}/", f"mysql://{ENCODED}:x@db.example:3307/"),
        ("mysql://u:${file:secret}@h/x", f"mysql://u:{ENCODED}@h/x"),
        ("mysql://${HOST}/a?x=${PASSWORD}", f"mysql://db.example:3307/a?x={ENCODED}"),
    ],
)
def test_references_are_replaced(tmp_path: Path, text: str, result: str) -> None:
    assert resolve(text, tmp_path) == result


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("${MISSING}", "the environment variable MISSING is not set"),
        ("${file:/nowhere/x}", "the file /nowhere/x cannot be read: No such file or directory"),
        ("${PASSWORD", "never closed"),
        ("${not a name}", "neither a variable's name"),
    ],
)
def test_a_missing_secret_is_named_with_its_key(tmp_path: Path, text: str, problem: str) -> None:
    message, _ = refused(tmp_path, sink=f'url = "postgresql://h/"\nschema = "{text}"')
    assert message.startswith("shop.toml:6: sink.schema: ")
    assert problem in message


def test_secrets_never_show(tmp_path: Path) -> None:
    settings = read(
        tmp_path,
        source='url = "mysql://u:${PASSWORD}@h/"\ntables = ["${PASSWORD}"]',
        sink='url = "postgresql://u:literal@h/shop"',
    )
    assert settings.source.url == f"mysql://u:{ENCODED}@h/"
    for shown in (repr(settings), repr(settings.source), f"{settings.sink!r}"):
        assert SECRET not in shown
        assert ENCODED not in shown
        assert "literal" not in shown
    assert "mysql://u:***@h/" in repr(settings)
    message, hint = refused(tmp_path, "[log]\nlevel = '${PASSWORD}'")
    assert SECRET not in message + hint


@given(st.text(st.characters(min_codepoint=33, max_codepoint=126), min_size=1))
def test_no_password_survives_redaction(password: str) -> None:
    token = f"<{password}>"
    assert token not in redact(f"mysql://user:{token}@host:3306/db")
    assert (
        redact("mysql://user@host:3306/db?tls=require") == "mysql://user@host:3306/db?tls=require"
    )
    assert redact("postgresql://h/d?password=x&a=b") == "postgresql://h/d?password=***&a=b"


# -- the reference configuration -------------------------------------------------------------------


def alternatives() -> list[tuple[str, dict[str, Any]]]:
    """The commented tables of the reference: lines that start with '#' and no space after it."""
    found: list[list[str]] = []
    for line in REFERENCE.read_text(encoding="utf-8").splitlines():
        if re.match(r"#\[\w", line):
            found.append([])
        if re.match(r"#[\[\w]", line):
            found[-1].append(line[1:])
    return [next(iter(tomllib.loads("\n".join(lines)).items())) for lines in found]


def all_tables() -> list[tuple[type[msgspec.Struct], dict[str, Any]]]:
    """Every table of the reference, with the struct that decodes it."""
    data = tomllib.loads(REFERENCE.read_text(encoding="utf-8"))
    tables = [(name, table) for name, table in data.items()] + alternatives()
    named = {"mapping": "shop.orders", "notify": "pager"}
    tables = [(name, table[named[name]] if name in named else table) for name, table in tables]
    return [(struct_of(name, table), table) for name, table in tables]


def struct_of(name: str, table: dict[str, Any]) -> type[msgspec.Struct]:
    if name in SECTIONS:
        return SECTIONS[name]
    registered = SOURCES if name == "source" else SINKS
    scheme = table["url"].partition(":")[0]
    struct: type[msgspec.Struct] = registry.load(scheme, registered, "").Settings
    return struct


def test_the_reference_has_every_key_with_its_default() -> None:
    for struct, table in all_tables():
        fields = {field.encode_name: field for field in msgspec.structs.fields(struct)}
        assert list(table) == list(fields), f"the keys of {struct.__name__}"
        decoded = msgspec.convert(table, struct)
        for name, field in fields.items():
            if not field.required and name != "name":
                made = field.default_factory
                default = field.default if made is msgspec.NODEFAULT else made()
                assert getattr(decoded, field.name) == default, f"{struct.__name__}.{name}"


def test_the_reference_leaves_no_struct_out() -> None:
    shown = {struct for struct, _ in all_tables()}
    registered = {
        registry.load(scheme, schemes, "").Settings
        for schemes in (SOURCES, SINKS)
        for scheme in schemes
        if scheme != "memory"
    }
    assert shown == registered | set(SECTIONS.values())


def test_every_key_of_the_reference_is_explained() -> None:
    lines = REFERENCE.read_text(encoding="utf-8").splitlines()
    for before, line in pairwise(lines):
        if re.match(r"\w+ = ", line):
            assert before.startswith("# ") or re.match(r"\w+ = ", before), line


def test_the_reference_loads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOURCE_PASSWORD", "a")
    monkeypatch.setenv("TARGET_PASSWORD", "b")
    settings = load(
        REFERENCE,
        lambda scheme: registry.load(scheme, SOURCES, "").Settings,  # type: ignore[no-any-return]
        lambda scheme: registry.load(scheme, SINKS, "").Settings,  # type: ignore[no-any-return]
    )
    assert settings.source_scheme == "mysql"
    assert settings.retry == RetrySettings()
