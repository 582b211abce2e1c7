"""
The page ``docs/types.md``, made from the type matrix and the code that maps types.

    python -m tests.support.types_page          write the page
"""

# ruff: noqa: E501  (a paragraph of the page is a line)

from __future__ import annotations

import re
from pathlib import Path
from typing import get_args, get_type_hints

from engine.databases.mysql.charset import may_be_invalid
from engine.databases.mysql.types import neutral_type, parse_type
from engine.databases.postgres.stored import deciding_policies
from engine.databases.postgres.types import type_name
from engine.schema import Column
from engine.toolkit.policies import ReadPolicies, StoragePolicies, ValuePolicies
from tests.support.releases import Since, Version
from tests.support.type_matrix import FAMILIES, TABLES, Kind

__all__ = ["PAGE", "page"]

PAGE = Path(__file__).parents[2] / "docs" / "types.md"

_LONGEST_VALUE = 32
_LONGEST_TYPE = 48
#: What a policy does with each of its values. A key is a policy and its value.
_EFFECTS = {
    ("zero_date", "null"): "NULL; the column accepts NULL on the target",
    ("zero_date", "epoch"): "1970-01-01, at midnight",
    ("zero_date", "-infinity"): "`-infinity`, which PostgreSQL sorts before every date",
    ("zero_date", "text"): "the column is text, and keeps every date as it is",
    ("zero_date", "error"): "an error (`on_error`)",
    ("nul_byte", "strip"): "removed",
    ("nul_byte", "replace"): "U+2400 (␀)",
    ("nul_byte", "error"): "an error (`on_error`)",
    ("tinyint1", "smallint"): "`smallint`, which holds every value",
    ("tinyint1", "boolean"): "`boolean`: 0 is false, 1 is true, others follow `out_of_range`",
    ("unsigned_bigint", "numeric"): "`numeric(20)`, which holds every value",
    (
        "unsigned_bigint",
        "bigint",
    ): "`bigint`; values above 9223372036854775807 follow `out_of_range`",
    ("charset", ""): "the charset that the column declares",
    ("charset", "…"): "this charset, such as `utf8mb4` for UTF-8 in a latin1 column",
    ("enum", "text"): "`text`",
    (
        "enum",
        "native",
    ): "an enum type, in the order of the labels; with a label above 63 bytes, `text`",
    ("generated", "plain"): "a plain column with the values that the source computes",
    (
        "generated",
        "generated",
    ): "`GENERATED ALWAYS AS (…) STORED` where PostgreSQL computes the same, else plain",
    ("collation", "default"): "the default collation of the target's database",
    ("collation", "source"): "a nondeterministic ICU collation that ignores the same ([charsets.md]"
    "(charsets.md#keys-and-collations))",
    ("out_of_range", "error"): "an error (`on_error`)",
    ("out_of_range", "null"): "NULL; the column accepts NULL on the target",
    ("out_of_range", "clamp"): "true, or 9223372036854775807",
    ("invalid_text", "replace"): "U+FFFD (\ufffd) for each sequence",
    (
        "invalid_text",
        "escape",
    ): "`\\x98` for each byte; the column on the target is four times as wide for each byte",
    ("invalid_text", "error"): "an error (`on_error`)",
}
_SUBJECTS = {
    "charset": "the charset of the bytes in text columns",
    "invalid_text": "bytes that are no character in the column's character set",
    "zero_date": "a date that is not in the calendar: 0000-00-00, 2020-00-10, 2020-02-31, year 0",
    "nul_byte": "the character U+0000 in text, which PostgreSQL cannot store",
    "tinyint1": "the type of `TINYINT(1)`",
    "unsigned_bigint": "the type of `BIGINT UNSIGNED`",
    "enum": "the type of `ENUM`",
    "generated": "a generated column",
    "collation": "the collation of texts whose collation ignores case on the source",
    "out_of_range": "a value that the chosen narrower type does not hold",
}
_IN_KEYS = {
    "invalid_text": "a character for private use (U+F0000 and above) for one or two bytes, or `error`",
    "zero_date": "0000-00-00 becomes `-infinity`; any other invalid date is an error; `text` keeps"
    " all",
    "nul_byte": "U+F0000, a character for private use, or `error`",
    "generated": "plain",
    "collation": "`default`; unique indexes have the other one",
    "out_of_range": "an error (`on_error`)",
}
_HEAD = """\
# Types and values

<!-- Made by `python -m tests.support.types_page` from the tests' type matrix. Do not edit. -->

Each column type of MySQL and MariaDB, its neutral type (`engine/schema.py`), the type in PostgreSQL, \
the policies that decide about its values, and the values that the tests carry. NULL is among them for \
every type.

`tests/end_to_end/test_types.py` carries each value into PostgreSQL on three paths: by a backfill, by \
an insert of the stream, and by an update of the stream in a table without a key, where the before \
image has to find the row. It compares the result with what the server itself prints. It runs on MySQL \
9.7 and MariaDB 10.11 and 11.8; `make slow` carries the same values from older releases \
(`tests/end_to_end/test_old_servers.py`). "Since" is the first release that has the type, "until" the \
first that no longer has it.

## Policies

A policy says what becomes of a value that cannot be carried as it is, or that can be carried in more \
than one form. `[source.values]` and `[sink.values]` hold the policies of a pipeline, and under \
`tables` and `columns` those of some tables and columns, by pattern:

```toml
[source.values]
invalid_text = "replace"

[sink.values]
zero_date = "null"
[sink.values.tables]
"shop.order*" = { zero_date = "epoch" }
[sink.values.columns]
"shop.orders.paid_on" = { zero_date = "text" }
```

A column's policy takes precedence over its table's, and that over the pipeline's. Of several patterns \
that match, the last one counts. A table whose name is in lower case matches in any case. Each value that a policy changes is counted by table, column and \
policy (`tailrace_replaced_values_total`). `tailrace verify` expects what the policies say. The rows of \
a table are stored by the policies of the time when it was backfilled. If one is \
another at a start, the table is backfilled again, or what `unlogged_change` in `[backfill]` says. \
`error` has changed no row, so another value with the same type holds from then on.
"""
_FOOT = """\
## What else to know

- A generated column becomes a plain column with the values that the source computes. With \
`generated = "generated"` PostgreSQL computes it, if the expression has only these parts: `+`, `-`, `*`, \
`DIV`, `%`, `ABS`, `ROUND`, `FLOOR` and `CEILING` of integers and decimals (no division with a \
fraction); `+`, `-` and `*` of floating-point numbers; comparisons of numbers and dates, and of an ENUM \
with one of its labels; `AND`, `OR`, `NOT`, `IS NULL`, `IN`, `BETWEEN`, `CASE`, `IF`, `IFNULL`, \
`COALESCE`, `NULLIF`; `CONCAT` of texts of one charset and of integers, if the column has room for all; \
`YEAR`, `MONTH`, `DAY` and `DATE` of dates with `zero_date = "error"`. `IS NULL` of a date needs a \
`zero_date` other than `null`. Other expressions, those over other generated columns and columns of \
the key stay plain, and `tailrace check` says why. A number that is too large for the column is stored \
as the largest one, as the source does without strict SQL mode. `tailrace verify` compares the \
results with the source's.
- `ENUM` and `SET` become text (an `ENUM` also an enum type, by policy), a `SET` with its members joined by commas. An `ENUM` that holds an \
invalid value is the empty text, as the source prints it.
- `JSON` becomes `json`, not `jsonb`, so the text is what the server prints: order, numbers and \
duplicates stay. MariaDB's `JSON` is `LONGTEXT` there, and text here.
- A geometry becomes EWKB in `bytea`, with its SRID and the order of the axes that the server stores. \
PostGIS reads it with `ST_GeomFromEWKB`.
- `TIME` goes from -838:59:59 to 838:59:59, so it becomes `interval`.
- `TIMESTAMP` becomes `timestamptz`, `DATETIME` becomes `timestamp` without a zone.
- `YEAR(2)` of MariaDB, and of MySQL 5.5 and tables from there, has the two digits that the server \
prints. 0000 and 2000 are both `00` there, so \
a key with both is one key on the target.
- A `FLOAT` keeps its four bytes. `FLOAT(M,D)` and `DOUBLE(M,D)` have the value that the server has \
rounded.
- With `binlog_row_value_options = PARTIAL_JSON` the log holds the changed parts of documents. They \
are applied to the document before the update, which `binlog_row_image = FULL` logs. Without it the \
update is a change that the log does not show, and `tailrace check` says so.
- Of a system-versioned table of MariaDB only the current rows are followed.
"""


def page() -> str:
    """The text of the page."""
    parts = [_HEAD, _policies()]
    parts += [_family(name, kinds) for name, kinds in FAMILIES.items()]
    return "\n".join([*parts, _forms(), _FOOT])


def _policies() -> str:
    lines = ["| policy | what it decides | value | effect | in a key |", "|---|---|---|---|---|"]
    for struct, place in ((ReadPolicies, "source"), (StoragePolicies, "sink")):
        for name, hint in get_type_hints(struct).items():
            if name in get_type_hints(ValuePolicies):
                continue
            default = getattr(struct(), name)
            for number, value in enumerate(get_args(hint) or ("", "…")):
                shown = (f"`{value}`" if value else "empty") + " (default)" * (value == default)
                first = (f"`{name}` of `[{place}.values]`", _SUBJECTS[name])
                subject = first if number == 0 else ("", "")
                key = _IN_KEYS.get(name, "") if number == 0 else ""
                lines.append(_line(*subject, shown, _EFFECTS[name, value], key))
    return "\n".join([*lines, ""])


def _family(name: str, kinds: tuple[Kind, ...]) -> str:
    lines = [
        f"## {name.capitalize()}",
        "",
        "| source type | neutral | PostgreSQL | policies | values | since |",
        "|---|---|---|---|---|---|",
    ]
    for kind in kinds:
        catalog_type = parse_type(_in_catalog(kind))
        neutral = neutral_type(str(catalog_type))
        column = Column("c", neutral, str(catalog_type))
        policies = deciding_policies(
            column, StoragePolicies(tinyint1="boolean", unsigned_bigint="bigint")
        )
        if neutral.kind == "text" and catalog_type.charset and may_be_invalid(catalog_type.charset):
            policies = ["invalid_text", *policies]
        lines.append(
            _line(
                _code(kind.type, _LONGEST_TYPE),
                str(neutral),
                f"`{type_name(neutral)}`",
                ", ".join(f"`{policy}`" for policy in policies),
                " ".join(_code(value, _LONGEST_VALUE) for value in kind.values) or "computed",
                _since(kind.since),
            )
        )
    return "\n".join([*lines, ""])


def _forms() -> str:
    lines = ["## Tables with hidden or special columns", "", "| definition | since |", "|---|---|"]
    lines += [
        _line(
            _code(form.create.format(form.name), 200)
            + (f" with `{form.session}`" if form.session else ""),
            _since(form.since),
        )
        for form in TABLES
    ]
    return "\n".join([*lines, ""])


def _line(*cells: str) -> str:
    return "| " + " | ".join(cells) + " |"


def _code(text: str, longest: int) -> str:
    """A text as code in a cell of a table, shortened."""
    text = re.sub(r"\s+", " ", text)
    short = text if len(text) <= longest else text[: longest - 1] + "…"
    return "`" + short.replace("`", "'").replace("|", "\\|") + "`"


def _in_catalog(kind: Kind) -> str:
    """The type as the catalog has it, in a database of utf8mb4."""
    type = kind.type
    if type == "JSON" and kind.since.mysql is None:
        type = "LONGTEXT"
    has_charset = re.search(r"CHARACTER SET|COLLATE|BYTE", type)
    is_text = re.match(r"(VAR)?CHAR|(TINY|MEDIUM|LONG)?TEXT", type)
    return f"{type} character set utf8mb4" if is_text and not has_charset else type


def _since(since: Since) -> str:
    until = f" (until {_number(since.mysql_until)})" if since.mysql_until else ""
    names = (("MySQL", since.mysql, until), ("MariaDB", since.mariadb, ""))
    return ", ".join(f"{name} {_number(it)}{end}" for name, it, end in names if it is not None)


def _number(version: Version) -> str:
    return ".".join(map(str, version))


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
