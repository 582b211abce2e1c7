"""
How a source's columns are stored in PostgreSQL: their types, and the values that are replaced.

Both follow from the neutral type and the policies of the column (``engine.toolkit.policies``). The
encoder replaces values while rows are applied (``sinks.postgres.copy``). A comparison converts the
source's canonical texts here, so what a policy changed is no difference.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

import msgspec

from engine.change import without_twin_prefix
from engine.contract import StoredText
from engine.databases.postgres.collations import icu_collation, ignores_case
from engine.databases.postgres.expressions import Inexact, Operand, expression_sql
from engine.databases.postgres.identifiers import MAX_IDENTIFIER_BYTES, Naming, digested, quote
from engine.databases.postgres.types import (
    TEMPORAL,
    TEXTUAL,
    CollatedColumn,
    ComputedColumn,
    EnumColumn,
)
from engine.schema import Column, Expression, Index, Table, TableId, Type
from engine.toolkit.canonical import day_or_none, without_nul
from engine.toolkit.policies import StoragePolicies

__all__ = [
    "KEY_INDEX",
    "DEFAULT",
    "EPOCH",
    "Fingerprint",
    "INFINITY",
    "KEY_NUL",
    "LARGEST_BIGINT",
    "NUL",
    "Storage",
    "deciding_policies",
    "exceeds_bigint",
    "is_narrowed",
    "stored_type",
]

DEFAULT = StoragePolicies()
EPOCH = "1970-01-01"
#: What stands for a zero date in a key: the source has no such date.
INFINITY = "-infinity"
#: What stands for U+0000: SYMBOL FOR NULL.
NUL = "\u2400"
#: What stands for U+0000 in a key: a character for private use, which no other key may have.
KEY_NUL = "\U000f0000"
#: The name of the index in which the texts of a key have the collation of the source.
KEY_INDEX = "tailrace_key"
LARGEST_BIGINT = (1 << 63) - 1

#: By column: policies by name.
Fingerprint = dict[str, dict[str, str]]

_DAY_CHARACTERS = 10
_CLOCK_CHARACTERS = len(" 00:00:00")


class Storage:
    """How the tables of one pipeline are stored."""

    def __init__(self, policies: StoragePolicies = DEFAULT, naming: Naming | None = None) -> None:
        self._policies = policies
        self._naming = naming or Naming()

    def policies(self, table: Table) -> tuple[StoragePolicies, ...]:
        """The policies of each column. Those of a twin are its table's. ``generated`` is only that
        of columns that PostgreSQL computes."""
        policies = self._named(table)
        plain = _reasons(table, policies)
        return tuple(
            msgspec.structs.replace(each, generated="plain") if column.name in plain else each
            for column, each in zip(table.columns, policies, strict=True)
        )

    def condition(self, table: Table, expression: Expression) -> str:
        """The SQL of a condition over the columns of a table. Raises Inexact."""
        policies = self.policies(table)
        nul_byte = self._policies.of(_own_id(table), "").nul_byte
        return expression_sql(expression, _operands(table, policies), nul_byte)

    def uncollated(self, table: Table) -> list[str]:
        """The columns that should have the source's collation, of which ICU has no like."""
        return [
            column.name
            for column, policies in zip(table.columns, self.policies(table), strict=True)
            if policies.collation == "source"
            and ignores_case(column)
            and icu_collation(column) is None
        ]

    def plain(self, table: Table) -> dict[str, str]:
        """Why columns stay plain that should be generated, by their names."""
        return _reasons(table, self._named(table))

    def _named(self, table: Table) -> list[StoragePolicies]:
        id = _own_id(table)
        return [self._policies.of(id, column.name) for column in table.columns]

    def table(self, table: Table) -> Table:
        """The table with the types of the target. It is ``table`` where no policy changes one."""
        if self._policies == DEFAULT:
            return table
        return self._with(table, self.policies(table))

    def table_by(self, table: Table, fingerprint: Fingerprint) -> Table:
        """The table with the types of the target, by the policies of a fingerprint."""
        policies = (fingerprint.get(column.name, {}) for column in table.columns)
        return self._with(table, [msgspec.convert(it, StoragePolicies) for it in policies])

    def unmatched(self, tables: Collection[Table]) -> list[str]:
        """As ``ValuePolicies.unmatched``."""
        return self._policies.unmatched(tables)

    def _with(self, table: Table, policies: Sequence[StoragePolicies]) -> Table:
        schema, _ = self._naming.place(table.id)
        computed = _computed(table, policies)
        columns = tuple(
            _collated(
                _stored_column(column, each, schema, computed.get(column.name, "")),
                *(each.collation, schema, ordinal in table.key),
            )
            for ordinal, (column, each) in enumerate(zip(table.columns, policies, strict=True))
        )
        if all(new is old for new, old in zip(columns, table.columns, strict=True)):
            return table
        indexes = table.indexes
        if any(isinstance(columns[ordinal], CollatedColumn) for ordinal in table.key):
            indexes = (*indexes, Index(KEY_INDEX, table.key, unique=True))
        return msgspec.structs.replace(table, columns=columns, indexes=indexes)

    def texts(self, table: Table) -> tuple[StoredText | None, ...]:
        """How the canonical text of each column is stored; None if it is always the same."""
        return tuple(
            _stored_text(column, policies, ordinal in table.key)
            for ordinal, (column, policies) in enumerate(
                zip(table.columns, self.policies(table), strict=True)
            )
        )

    def fingerprint(self, table: Table) -> Fingerprint:
        """By column: the policies that decide about its values and are not the default."""
        if self._policies == DEFAULT:
            return {}
        found = {}
        for column, policies in zip(table.columns, self.policies(table), strict=True):
            chosen = {
                name: getattr(policies, name)
                for name in deciding_policies(column, policies)
                if getattr(policies, name) != getattr(DEFAULT, name)
            }
            if chosen:
                found[column.name] = chosen
        return found

    def outdated(
        self, table: Table, before: Fingerprint, kept: Collection[str] | None = None
    ) -> str:
        """The first policy that has changed since the fingerprint ``before``, so that rows may be
        stored by another one; empty if there is none. ``error`` has changed no row. ``kept``: the
        names of the columns that are older than the fingerprint of today; None for all.
        """
        after = self.fingerprint(table)
        for column in table.columns:
            if kept is not None and column.name not in kept:
                continue
            old, new = before.get(column.name, {}), after.get(column.name, {})
            for name in sorted({*old, *new}):
                was, now = (it.get(name, getattr(DEFAULT, name)) for it in (old, new))
                shape = now == "text" or (name == "out_of_range" and now == "null")
                if was != now and (was != "error" or shape):
                    return (
                        f"the policy {name} of column {column.name} was {was} when the table was"
                        f" backfilled, and is {now} now"
                    )
        return ""


def _own_id(table: Table) -> TableId:
    """The name of the table on the source: not that of its twin."""
    return TableId(table.id.schema, without_twin_prefix(table.id.name))


def deciding_policies(column: Column, policies: StoragePolicies = DEFAULT) -> list[str]:
    """The names of the policies that decide about the values of a column."""
    kind, names = column.type.kind, []
    if kind in TEMPORAL:
        names.append("zero_date")
    if kind in TEXTUAL:
        names.append("nul_byte")
    if _is_flag(column):
        names.append("tinyint1")
    if kind == "enum":
        names.append("enum")
    if column.generated:
        names.append("generated")
    if icu_collation(column) is not None:
        names.append("collation")
    if kind == "uint64":
        names.append("unsigned_bigint")
    if is_narrowed(column, policies):
        names.append("out_of_range")
    return names


def stored_type(column: Column, policies: StoragePolicies) -> Type:
    """The neutral type as which a column is stored."""
    type = column.type
    if type.kind in TEMPORAL and policies.zero_date == "text":
        fraction = type.scale + 1 if type.scale else 0
        clock = 0 if type.kind == "date" else _CLOCK_CHARACTERS + fraction
        return Type("text", length=_DAY_CHARACTERS + clock)
    if policies.tinyint1 == "boolean" and _is_flag(column):
        return Type("boolean")
    if policies.unsigned_bigint == "bigint" and type.kind == "uint64":
        return Type("int64")
    return type


def is_narrowed(column: Column, policies: StoragePolicies) -> bool:
    """Whether the stored type does not hold every value of the column."""
    return column.type.kind not in TEMPORAL and stored_type(column, policies) is not column.type


def _is_flag(column: Column) -> bool:
    """Whether a column is TINYINT(1), by convention a boolean."""
    return column.type.kind == "int8" and column.source_type.lower().startswith("tinyint(1)")


def _collated(column: Column, policy: str, schema: str, in_key: bool) -> Column:
    """The column with the collation of the target, if it gets one."""
    collation = icu_collation(column) if policy == "source" and type(column) is Column else None
    if collation is None:
        return column
    name = quote(schema, collation.name)
    return CollatedColumn(
        **msgspec.structs.asdict(column), collation=name, locale=collation.locale, in_key=in_key
    )


def _computed(table: Table, policies: Sequence[StoragePolicies]) -> dict[str, str]:
    """The SQL of the columns that PostgreSQL computes, by their names."""
    reasons = _reasons(table, policies)
    operands = _operands(table, policies)
    return {
        table.columns[ordinal].name: _sql(table, ordinal, policies[ordinal], operands)
        for ordinal in _chosen(table, policies)
        if table.columns[ordinal].name not in reasons
    }


def _chosen(table: Table, policies: Sequence[StoragePolicies]) -> list[int]:
    """The ordinals of the generated columns that PostgreSQL should compute."""
    return [
        ordinal
        for ordinal, column in enumerate(table.columns)
        if column.generated and policies[ordinal].generated == "generated"
    ]


def _reasons(table: Table, policies: Sequence[StoragePolicies]) -> dict[str, str]:
    """Why columns are not computed by PostgreSQL although their policy says so, by their names."""
    found = {}
    chosen = _chosen(table, policies)
    operands = _operands(table, policies) if chosen else {}
    for ordinal in chosen:
        try:
            _sql(table, ordinal, policies[ordinal], operands)
        except Inexact as error:
            found[table.columns[ordinal].name] = str(error)
    return found


def _operands(table: Table, policies: Sequence[StoragePolicies]) -> dict[str, Operand]:
    """The columns that an expression may use: PostgreSQL has computed no other generated one."""
    return {
        column.name: Operand(column, each, stored_type(column, each) == column.type, n in table.key)
        for n, (column, each) in enumerate(zip(table.columns, policies, strict=True))
        if not column.generated or each.generated == "plain"
    }


def _sql(
    table: Table, ordinal: int, policies: StoragePolicies, operands: Mapping[str, Operand]
) -> str:
    """The SQL of a generated column. Raises Inexact."""
    column = table.columns[ordinal]
    expression, type = column.expression, stored_type(column, policies)
    if expression is None:
        raise Inexact("its expression is not known")
    if ordinal in table.key:
        raise Inexact("it is part of the key")
    if type.kind == "boolean" and expression.name == "from_condition":
        (expression,) = expression.arguments
    elif type != column.type:
        raise Inexact("a policy stores it as another type")
    return expression_sql(expression, operands, policies.nul_byte)


def _stored_column(column: Column, policies: StoragePolicies, schema: str, sql: str = "") -> Column:
    if sql:
        stored = msgspec.structs.replace(column, type=stored_type(column, policies), default=None)
        return ComputedColumn(**msgspec.structs.asdict(stored), sql=sql)
    if policies.enum == "native" and _has_labels(column):
        members = column.type.members
        enum_type = quote(schema, digested("_".join(members), "\0".join(members)))
        return EnumColumn(**msgspec.structs.asdict(column), enum_type=enum_type)
    if column.type.kind in TEMPORAL:
        default = _stored_default(column, policies)
    else:
        default = None if exceeds_bigint(column, policies.unsigned_bigint) else column.default
    stored = msgspec.structs.replace(
        column,
        type=stored_type(column, policies),
        nullable=column.nullable
        or (policies.out_of_range == "null" and is_narrowed(column, policies)),
        default=default,
    )
    return column if stored == column else stored


def exceeds_bigint(column: Column, unsigned_bigint: str) -> bool:
    """Whether the default of a column is too large for the type that a policy chooses."""
    default = (column.default or "").strip("'")
    if unsigned_bigint != "bigint" or column.type.kind != "uint64" or not default.isdigit():
        return False
    return int(default) > LARGEST_BIGINT


def _has_labels(column: Column) -> bool:
    """Whether the members of an ENUM can be labels of a PostgreSQL type."""
    members = column.type.members
    return (
        column.type.kind == "enum"
        and len(set(members)) == len(members)
        and all(
            "\0" not in member
            and "$tailrace$" not in member
            and len(member.encode()) <= MAX_IDENTIFIER_BYTES
            for member in members
        )
    )


def _stored_default(column: Column, policies: StoragePolicies) -> str | None:
    """The default of a column with dates. The implicit default of NOT NULL is the zero date.

    A time zone or a precision may change a constant that is stored as text, so it is made an
    expression, which nothing relies on.
    """
    if policies.zero_date in ("null", "error"):
        return column.default
    if (column.default is None and not column.nullable) or "0000-00-00" in (column.default or ""):
        return f"'{_zero_text(column.type, policies.zero_date)}'"
    if policies.zero_date == "text" and column.default is not None:
        return "NULL" if column.default.upper() == "NULL" else "(CURRENT_TIMESTAMP)"
    return column.default


def _zero_text(type: Type, policy: str) -> str:
    """How the zero date of a type is stored."""
    if policy == INFINITY:
        return INFINITY
    clock = "" if type.kind == "date" else " 00:00:00"
    if policy == "epoch":
        return EPOCH + clock + ("+00" if type.kind == "timestamp" else "")
    return "0000-00-00" + clock + (f".{'0' * type.scale}" if type.scale else "")


def _stored_text(column: Column, policies: StoragePolicies, key: bool) -> StoredText | None:
    kind = column.type.kind
    if kind in TEMPORAL:
        text = _stored_date(policies.zero_date, kind != "date", key)
        return text and text._replace(policy=f'zero_date = "{policies.zero_date}"')
    if kind in TEXTUAL and policies.nul_byte != "error":
        policy = f'nul_byte = "{policies.nul_byte}"'
        if key or policies.nul_byte == "replace":
            nul = KEY_NUL if key else NUL
            return StoredText(
                lambda text: text.replace("\0", nul),
                lambda text: text.replace(nul, "\0"),
                *(policy, f"texts in which U+{ord(nul):04X} stands for U+0000"),
            )
        return StoredText(without_nul, policy=policy, changed="texts that lost U+0000")
    if is_narrowed(column, policies) and policies.out_of_range != "error" and not key:
        highest = 1 if kind == "int8" else LARGEST_BIGINT
        other = str(highest) if policies.out_of_range == "clamp" else None
        return StoredText(
            lambda text: text if 0 <= int(text) <= highest else other,
            policy=f'out_of_range = "{policies.out_of_range}"',
            changed=f"numbers out of range that became {other or 'NULL'}",
        )
    return None


def _stored_date(policy: str, with_clock: bool, key: bool) -> StoredText | None:
    clock = " 00:00:00.000000" if with_clock else ""
    if policy in ("text", "error"):
        return None
    if key:
        zero = f"0000-00-00{clock}"
        return StoredText(
            lambda text: INFINITY if text == zero else text,
            lambda text: zero if text == INFINITY else text,
            changed=f"zero dates that became {INFINITY}",
        )
    other = {"null": None, "epoch": f"{EPOCH}{clock}", INFINITY: INFINITY}[policy]
    return StoredText(
        lambda text: text if day_or_none(text) is not None else other,
        changed=f"zero dates that became {'NULL' if other is None else other}",
    )
