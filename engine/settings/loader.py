"""
The configuration: one TOML file, decoded strictly into immutable structs.

The structs are the specification. A key that they do not name is refused; the error names the line,
the path of the key, the allowed keys, and a likely correction. The struct for ``[source]`` or
``[sink]`` belongs to the source or sink, which the scheme of its ``url`` selects.
``config/reference.toml`` shows every key with its default.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Callable, Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, cast, get_args, get_origin, get_type_hints

import msgspec
from msgspec import Meta, Struct

from engine.errors import ConfigError
from engine.schema import TableId
from engine.settings.api import ApiSettings
from engine.settings.cutover import CutoverSettings
from engine.settings.mapping import MaskSettings, TableRules
from engine.settings.notify import NotifySettings
from engine.settings.reference import reference_path
from engine.settings.secrets import SecretError, resolve
from engine.settings.verify import VerifySettings

__all__ = [
    "BatchSettings",
    "ErrorSettings",
    "LogFormat",
    "LogLevel",
    "LogSettings",
    "PipelineSettings",
    "RetrySettings",
    "Settings",
    "BackfillSettings",
    "StructOf",
    "TelemetrySettings",
    "load",
    "load_part",
]

#: Returns the struct that decodes ``[source]`` or ``[sink]``, for the scheme of its URL.
StructOf = Callable[[str], type[Struct]]

S = TypeVar("S", bound=Struct)

#: The names of types in errors.
TOML_NAMES = {
    "str": "a text",
    "int": "a whole number",
    "float": "a number",
    "bool": "true or false",
    "array": "a list",
    "tuple": "a list",
    "list": "a list",
    "object": "a table",
}

#: Former names that a configuration may still hold: table or key, and its name now.
RENAMED = {
    ("snapshot",): "backfill",
    ("backfill", "round_seconds"): "slice_seconds",
    ("metrics",): "api",
}

OnError = Literal["stop", "quarantine", "dead_letter"]
LogFormat = Literal["text", "json"]
LogLevel = Literal["debug", "info", "warning", "error"]
Count = Annotated[int, Meta(ge=1)]
Seconds = Annotated[float, Meta(ge=0)]
Delay = Annotated[float, Meta(gt=0)]


class PipelineSettings(Struct, frozen=True, forbid_unknown_fields=True):
    """``name`` identifies the checkpoint in the target, and must never change for a pipeline. The
    default is the name of the file without its suffix.
    """

    name: str = ""


class BackfillSettings(Struct, frozen=True, forbid_unknown_fields=True):
    """How tables are backfilled.

    ``never`` backfills nothing: only changes from now on are applied. ``readers`` connections read
    chunks of about ``chunk_rows`` rows ahead. While the log has changes waiting, backfill runs in
    time slices of ``slice_seconds``, between two batches of the stream; they are up to three times
    as long for a target that is far away.

    ``unlogged_change`` says what follows a change of a table that the log does not show exactly:
    ``backfill`` the table again, ``quarantine`` it (its changes are not applied any more), or
    ``stop`` the pipeline. A table that cannot be backfilled again is quarantined instead.
    """

    mode: Literal["initial", "never"] = "initial"
    readers: Count = 2
    chunk_rows: Count = 20_000
    slice_seconds: Seconds = 1.0
    unlogged_change: Literal["backfill", "quarantine", "stop"] = "backfill"


class ErrorSettings(Struct, frozen=True, forbid_unknown_fields=True):
    """What follows an error that concerns one table alone: ``quarantine`` the table (its changes
    are not applied any more, and the others go on), ``stop`` the pipeline, or ``dead_letter``: a
    row that the target refuses is kept aside, with later changes of its key, and the table goes on;
    a table in any other trouble is quarantined.

    ``tables`` has the policy of some tables, by patterns ``schema.table`` with ``*`` and ``?``. Of
    several that match, the last one counts.
    """

    on_error: OnError = "quarantine"
    tables: dict[str, OnError] = {}

    def policy(self, id: TableId) -> OnError:
        """The policy of a table."""
        found = self.on_error
        for pattern, policy in self.tables.items():
            if id.matches(pattern):
                found = policy
        return found

    def __post_init__(self) -> None:
        for pattern in self.tables:
            if len(pattern.split(".")) != 2 or not all(pattern.split(".")):
                raise ConfigError(
                    f"errors.tables: {pattern!r} is not a pattern schema.table",
                    hint="write schema.table",
                )


class BatchSettings(Struct, frozen=True, forbid_unknown_fields=True):
    """The size of a batch: up to ``max_rows`` row changes or ``max_bytes`` of memory, or what was
    read in ``max_age_seconds`` while the log never pauses. When the log pauses, the batch is
    written and committed at once. Large batches that follow each other share a target transaction
    for up to half a second. ``queue_bytes`` bounds the decoded changes that wait. All but the age
    are up to three times as large for a target that is far away.
    """

    max_rows: Count = 50_000
    max_bytes: Count = 16 * 1024 * 1024
    max_age_seconds: Seconds = 1.0
    queue_bytes: Count = 16 * 1024 * 1024


class RetrySettings(Struct, frozen=True, forbid_unknown_fields=True):
    """The wait after a lost connection: ``first_seconds``, doubled each time up to ``max_seconds``.
    After ``give_up_seconds`` without a commit the engine stops; 0 means never.
    """

    first_seconds: Delay = 0.2
    max_seconds: Delay = 30.0
    give_up_seconds: Seconds = 0.0


class LogSettings(Struct, frozen=True, forbid_unknown_fields=True):
    """The format and the least level of the log on standard error."""

    format: LogFormat = "text"
    level: LogLevel = "info"


class TelemetrySettings(Struct, frozen=True, forbid_unknown_fields=True):
    """``endpoint`` is the base URL of an OpenTelemetry receiver, for OTLP over HTTP; empty sends
    nothing. The variables OTEL_… of the SDK hold, too.
    """

    endpoint: str = ""


class Settings(Struct, frozen=True):
    """A whole configuration. ``source`` and ``sink`` are structs of the source's and sink's own."""

    pipeline: PipelineSettings
    source_scheme: str
    source: Any
    sink_scheme: str
    sink: Any
    backfill: BackfillSettings
    batch: BatchSettings
    errors: ErrorSettings
    mapping: Mapping[str, TableRules]
    mask: MaskSettings
    retry: RetrySettings
    api: ApiSettings
    log: LogSettings
    notify: Mapping[str, NotifySettings]
    telemetry: TelemetrySettings
    verify: VerifySettings
    cutover: CutoverSettings = CutoverSettings()


def load(path: Path, source_type: StructOf, sink_type: StructOf) -> Settings:
    """Read the configuration in ``path``.

    ``source_type`` and ``sink_type`` give the struct for a URL's scheme, or raise ConfigError.
    Raises ConfigError, which never contains a value.
    """
    return _Document(path, _read(path)).decode(source_type, sink_type)


def load_part(path: Path, shape: type[S]) -> S:
    """Read a file with the tables of ``shape`` only. Raises ConfigError, as ``load``."""
    return _Document(path, _read(path)).decode_part(shape)


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except IsADirectoryError as error:
        raise ConfigError(
            f"{path} is a directory", hint="name the configuration of one of its pipelines"
        ) from error
    except OSError as error:
        raise ConfigError(
            f"{path} cannot be read: {error.strerror}",
            hint="'tailrace init SOURCE TARGET' writes a configuration",
        ) from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path} is not UTF-8", hint="save it as UTF-8") from error


class _Document:
    """The text of a configuration, so that errors can name a line."""

    def __init__(self, path: Path, text: str) -> None:
        self._path = path
        self._text = text
        #: By path: the older name that the file uses for a key.
        self._older: dict[tuple[str, ...], str] = {}

    def decode_part(self, shape: type[S]) -> S:
        data = self._data()
        self._check_keys(data, shape, ())
        return cast("S", self._convert(data, shape))

    def decode(self, source_type: StructOf, sink_type: StructOf) -> Settings:
        data = self._data()
        schemes = {part: self._scheme(data, part) for part in ("source", "sink")}
        types = {
            "source": self._type_of("source", schemes["source"], source_type),
            "sink": self._type_of("sink", schemes["sink"], sink_type),
        }
        shape = _shape(types["source"], types["sink"])
        self._check_keys(data, shape, ())
        decoded = self._convert(data, shape)
        parts = {name: getattr(decoded, name) for name in shape.__struct_fields__}
        if not parts["pipeline"].name:
            parts["pipeline"] = PipelineSettings(self._path.stem)
        return Settings(source_scheme=schemes["source"], sink_scheme=schemes["sink"], **parts)

    def _data(self) -> dict[str, Any]:
        """The file, with the placeholders resolved, under today's names."""
        try:
            data = tomllib.loads(self._text)
        except tomllib.TOMLDecodeError as error:
            raise ConfigError(
                f"{self._path} is not TOML: {error}", hint='write strings in quotes: key = "value"'
            ) from error
        return self._renamed(self._resolve(data, ()))

    def _resolve(self, value: Any, keys: tuple[str, ...]) -> Any:
        """The same value with the placeholders in all strings resolved."""
        if isinstance(value, dict):
            return {key: self._resolve(inner, (*keys, key)) for key, inner in value.items()}
        if isinstance(value, list):
            return [self._resolve(inner, keys) for inner in value]
        if not isinstance(value, str):
            return value
        try:
            return resolve(value, self._path.parent)
        except SecretError as error:
            raise self._error(keys, str(error), "set it before starting, or correct it") from error

    def _renamed(self, data: dict[str, Any]) -> dict[str, Any]:
        """The same data under today's names. Both names at once are an error."""
        for (*path, old), new in RENAMED.items():
            table = _look_up(data, path)
            if isinstance(table, dict) and old in table:
                if new in table:
                    problem = f"the key is named {new} now, and both are there"
                    raise self._error((*path, old), problem, f"delete {old}")
                table[new] = table.pop(old)
                self._older[(*path, new)] = old
        return data

    def _scheme(self, data: Mapping[str, Any], part: str) -> str:
        """The scheme of the URL in ``[part]``."""
        table = data.get(part)
        if not isinstance(table, dict):
            raise self._error((part,), "the table is missing", f'write [{part}] and url = "…"')
        url = table.get("url")
        if url is None:
            raise self._error((part, "url"), "the key is missing", f'write url = "…" in [{part}]')
        match = re.match(r"([A-Za-z][A-Za-z0-9+.-]*):", url) if isinstance(url, str) else None
        if match is None:
            raise self._error(
                (part, "url"), "this is not a URL", "a URL begins with a scheme: mysql://…"
            )
        return match[1].lower()

    def _type_of(self, part: str, scheme: str, find: StructOf) -> type[Struct]:
        try:
            return find(scheme)
        except ConfigError as error:
            raise self._error((part, "url"), error.message, error.hint) from error

    def _check_keys(
        self, data: Mapping[str, Any], shape: type[Struct], keys: tuple[str, ...]
    ) -> None:
        """Raise unless every key is known and every required key is present."""
        known = {field.encode_name: field for field in msgspec.structs.fields(shape)}
        for key in data:
            if key not in known:
                where = f"[{'.'.join(keys)}] takes" if keys else "the file takes"
                hint = f"{_did_you_mean(key, list(known))}{where} {', '.join(known)}"
                raise self._error((*keys, key), "the key is unknown", hint)
        for key, field in known.items():
            if key not in data and field.required:
                raise self._error(
                    (*keys, key), "the key is missing", f"it is a {_name(field.type)}"
                )
            inner = field.type
            if (
                isinstance(inner, type)
                and issubclass(inner, Struct)
                and isinstance(data.get(key), dict)
            ):
                self._check_keys(data[key], inner, (*keys, key))
            elif (named := _named_structs(inner)) and isinstance(data.get(key), dict):
                for name, table in data[key].items():
                    if isinstance(table, dict):
                        self._check_keys(table, named, (*keys, key, name))

    def _convert(self, data: Mapping[str, Any], shape: type[Struct]) -> Any:
        try:
            return msgspec.convert(data, shape)
        except ConfigError as error:  # from a struct's own check
            raise ConfigError(f"{self._path}: {error.message}", hint=error.hint) from error
        except msgspec.ValidationError as error:
            problem, _, path = str(error).partition(" - at `$.")
            keys = tuple(re.sub(r"\[[^]]*\]", "", path.rstrip("`")).split("."))
            found, allowed = _look_up(data, keys), _allowed(shape, keys)
            if allowed and isinstance(found, str):
                problem = "the value is not allowed"
                hint = f"{_did_you_mean(found, allowed)}allowed are {', '.join(allowed)}"
            else:
                hint = f"see {reference_path()} for its type and unit"
            raise self._error(keys, _in_words(problem), hint) from None

    def _error(self, keys: Sequence[str], problem: str, hint: str) -> ConfigError:
        keys = [self._older.get(tuple(keys[: n + 1]), key) for n, key in enumerate(keys)]
        line = self._line_of(keys)
        place = str(self._path) if line is None else f"{self._path}:{line}"
        return ConfigError(f"{place}: {'.'.join(keys)}: {problem}", hint=hint)

    def _line_of(self, keys: Sequence[str]) -> int | None:
        """The number of the line with the key, or with its table. None if neither is found."""
        table: list[str] = []
        found: int | None = None
        for number, line in enumerate(self._text.splitlines(), 1):
            if header := re.match(r"\s*\[+([^]]+)\]+", line):
                table = _split(header[1])
                key = table
            elif assignment := re.match(r"\s*([\w.\"' -]+?)\s*=", line):
                key = table + _split(assignment[1])
            else:
                continue
            if key == list(keys):
                return number
            if key == list(keys)[: len(key)]:
                found = number
        return found


def _shape(source: type[Struct], sink: type[Struct]) -> type[Struct]:
    """The struct of a whole file."""
    return msgspec.defstruct(
        "File",
        [
            ("source", source),
            ("sink", sink),
            ("pipeline", PipelineSettings, PipelineSettings()),
            ("backfill", BackfillSettings, BackfillSettings()),
            ("batch", BatchSettings, BatchSettings()),
            ("errors", ErrorSettings, ErrorSettings()),
            ("mapping", dict[str, TableRules], {}),
            ("mask", MaskSettings, MaskSettings()),
            ("retry", RetrySettings, RetrySettings()),
            ("api", ApiSettings, ApiSettings()),
            ("log", LogSettings, LogSettings()),
            ("notify", dict[str, NotifySettings], {}),
            ("telemetry", TelemetrySettings, TelemetrySettings()),
            ("verify", VerifySettings, VerifySettings()),
            ("cutover", CutoverSettings, CutoverSettings()),
        ],
        forbid_unknown_fields=True,
    )


def _named_structs(kind: Any) -> type[Struct] | None:
    """The struct of ``dict[str, struct]``, the type of a table of named tables."""
    inner = get_args(kind)[-1] if get_origin(kind) is dict else None
    return inner if isinstance(inner, type) and issubclass(inner, Struct) else None


def _split(dotted: str) -> list[str]:
    return [part.strip(" \"'") for part in dotted.split(".")]


def _did_you_mean(word: str, known: Sequence[str]) -> str:
    near = get_close_matches(word, known, n=1)
    return f"did you mean '{near[0]}'? " if near else ""


def _look_up(data: Any, keys: Sequence[str]) -> Any:
    for key in keys:
        data = data.get(key) if isinstance(data, dict) else None
    return data


def _allowed(shape: Any, keys: Sequence[str]) -> list[str]:
    """The values that a key may have, if they can be listed."""
    for key in keys:
        shape = get_type_hints(shape).get(key) if isinstance(shape, type) else None
    return [str(value) for value in get_args(shape)] if get_origin(shape) is Literal else []


def _in_words(problem: str) -> str:
    """The message of msgspec, with TOML's names of types."""
    return re.sub(r"`(\w+)`", lambda match: TOML_NAMES.get(match[1], match[1]), problem).lower()


def _name(kind: Any) -> str:
    name = getattr(get_origin(kind) or kind, "__name__", str(kind))
    return TOML_NAMES.get(name, name)
