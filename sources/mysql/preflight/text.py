"""
Checks of columns with characters: bytes that are not what the charset says, and keys whose
collation takes different texts for equal.
"""

from __future__ import annotations

import codecs
from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import Any, Final

from engine.contract import Finding
from engine.databases.mysql.charset import BYTES_PER_CHARACTER, text_decoder
from engine.databases.mysql.connect import query
from engine.databases.mysql.identifiers import quote_name, quote_table
from engine.databases.mysql.types import parse_type
from engine.errors import SourceError, SourceLost
from engine.schema import Column, Table
from sources.mysql.ddl.columns import charset_of
from sources.mysql.preflight.context import Check, Context

__all__ = ["TEXT_CHECKS"]

_SAMPLE_ROWS: Final = 1000
#: The server reads the whole of a large value.
_SAMPLE_LARGE_ROWS: Final = 20
_SAMPLE_BYTES: Final = 400
#: So many values with other characters than ASCII must be UTF-8 to say so, and this part of them.
_ENOUGH: Final = 2
_PART: Final = 0.9
#: The servers refuse bytes that are not valid in these.
_STRICT: Final = frozenset(("utf8mb3", "utf8mb4", "ucs2", "utf16", "utf16le", "utf32"))
#: A charset, and the larger one of the same family that its columns often hold.
_LARGER: Final = {"sjis": "cp932", "ujis": "eucjpms", "gb2312": "gbk", "gbk": "gb18030"}


def _misdeclared(context: Context) -> Iterator[Finding]:
    for table in context.tables:
        columns = [column for column in table.columns if _may_lie(column)]
        small = [column for column in columns if not _is_large(column)]
        large = [column for column in columns if _is_large(column)]
        for some, limit in ((small, _SAMPLE_ROWS), (large, _SAMPLE_LARGE_ROWS)):
            rows = _rows(context, table, some, limit) if some else ()
            for column, values in zip(some, zip(*rows, strict=True), strict=False):
                yield from _judged(table, column, values)


def _may_lie(column: Column) -> bool:
    source_type = parse_type(column.source_type)
    text = column.type.kind == "text" and source_type.encoding in BYTES_PER_CHARACTER
    return text and source_type.encoding not in _STRICT


def _is_large(column: Column) -> bool:
    return parse_type(column.source_type).base in ("mediumtext", "longtext")


def _rows(
    context: Context, table: Table, columns: Sequence[Column], limit: int
) -> Sequence[tuple[Any, ...]]:
    names = ", ".join(
        f"LEFT(CAST({quote_name(column.name)} AS BINARY), {_SAMPLE_BYTES})" for column in columns
    )
    try:
        statement = f"SELECT {names} FROM {quote_table(table)} LIMIT {limit}"
        return query(context.session, statement)
    except SourceLost:
        raise
    except SourceError:
        return ()  # another check says that the user may not read the table


def _judged(table: Table, column: Column, values: Sequence[bytes | None]) -> Iterator[Finding]:
    """The finding about a column's sampled values, if there is one."""
    charset = parse_type(column.source_type).encoding
    sample = [value for value in values if value and not value.isascii()]
    utf8 = sum(map(_is_utf8, sample))
    invalid = [value for value in sample if not _is_text(value, charset)]
    declared = f"the column {column.name} has the charset {charset}"
    where = f'[source.values.columns] "{table.id}.{column.name}"'
    if utf8 >= _ENOUGH and utf8 >= _PART * len(sample):
        yield Finding(
            "warning",
            str(table.id),
            f"{declared}, and {utf8} of {len(sample)} sampled values hold UTF-8",
            f'{where} = {{ charset = "utf8mb4" }}, if applications read these values as UTF-8',
            code="MY055",
        )
    elif invalid:
        action = f'{where} = {{ invalid_text = "escape" }} keeps the bytes as text'
        larger = _LARGER.get(charset)
        if larger and all(_is_text(value, larger) for value in invalid):
            action = f'{where} = {{ charset = "{larger}" }}: all of them are valid in {larger}'
        yield Finding(
            "warning",
            str(table.id),
            f"{declared}, and {len(invalid)} of {len(sample)} sampled values hold other bytes",
            action,
            code="MY056",
        )


def _is_text(value: bytes, charset: str) -> bool:
    """Whether the bytes are valid; the last character of a longer value may be cut off."""
    decode = text_decoder(charset)
    shortest = len(value) - (3 if len(value) == _SAMPLE_BYTES else 0)
    for end in range(len(value), shortest - 1, -1):
        try:
            decode(value[:end])
        except UnicodeDecodeError:
            continue
        return True
    return False


def _is_utf8(value: bytes) -> bool:
    try:
        codecs.getincrementaldecoder("utf-8")().decode(value)
    except UnicodeDecodeError:
        return False
    return True


def _keys(context: Context) -> Iterator[Finding]:
    """PostgreSQL compares text by its bytes."""
    known: dict[str, list[str]] = {}
    for table in context.tables:
        found: dict[str, list[str]] = defaultdict(list)
        unique = {ordinal for index in table.uniques for ordinal in index.columns}
        for ordinal in sorted({*table.key, *unique}):
            column = table.columns[ordinal]
            source_type = parse_type(column.source_type)
            if column.type.kind == "text" and source_type.collation:
                found[source_type.collation].append(column.name)
        for collation, names in found.items():
            if collation not in known:
                known[collation] = _ignored(context, collation)
            if known[collation]:
                yield Finding(
                    "warning",
                    str(table.id),
                    f"the keys over {', '.join(names)} ignore {', '.join(known[collation])}"
                    f" ({collation})",
                    "PostgreSQL does not; before applications write to the target, give it the same"
                    ' rule: collation = "source" in [sink.values], or a unique index on lower(…)',
                    code="MY057",
                )


def _ignored(context: Context, collation: str) -> list[str]:
    """What a collation ignores when it compares; nothing if it does so only with spaces."""
    charset = charset_of(collation).name
    if charset in ("", "binary"):
        return []

    def equal(other: str) -> str:
        text, same = (
            f"CONVERT(_utf8mb4'{each}' USING {charset})" for each in (other[0], other[1:])
        )
        return f"{text} = {same} COLLATE {collation}"

    pairs = {"case": "aA", "accents": "aä", "spaces at the end": "aa "}
    rows = query(context.session, f"SELECT {', '.join(map(equal, pairs.values()))}")
    ignored = [what for what, answer in zip(pairs, rows[0], strict=True) if answer]
    return ignored if ignored != ["spaces at the end"] else []


#: The checks of columns with characters.
TEXT_CHECKS: Final[tuple[Check, ...]] = (_misdeclared, _keys)
