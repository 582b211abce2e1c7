"""
Records `engine/mapping/collations.json` again: `python -m tests.support.record_collations`.

For each collation: the characters whose weights are those of ASCII text, by that text, lower case.
For each family of collations: the letters that LOWER and UPPER change, and what they become.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypeAlias

from pymysql.cursors import Cursor

from engine.sandbox import start_mariadb, start_mysql
from tests.support.servers import AnyServer, connect_mysql, obtain

__all__ = ["PATH", "Recorded", "record"]

PATH = Path(__file__).parents[2] / "engine" / "mapping" / "collations.json"

Recorded: TypeAlias = dict[str, dict[str, Any]]

#: By kind of server: the collations whose equality is recorded.
EQUAL = {
    "mysql": ("utf8mb4_general_ci", "utf8mb4_unicode_ci", "utf8mb4_unicode_520_ci",
              "utf8mb4_0900_ai_ci", "latin1_swedish_ci", "latin1_general_ci"),
    "mariadb": ("utf8mb4_general_ci", "utf8mb4_unicode_ci", "utf8mb4_unicode_520_ci",
                "utf8mb4_uca1400_ai_ci", "latin1_swedish_ci", "latin1_general_ci"),
}  # fmt: skip
#: By kind of server: the families of collations whose letters are recorded, with one of each.
CASE = {
    "mysql": {"general": "utf8mb4_bin", "0900": "utf8mb4_0900_bin", "latin1": "latin1_bin"},
    "mariadb": {
        "general": "utf8mb4_bin",
        "uca1400": "utf8mb4_uca1400_ai_ci",
        "latin1": "latin1_bin",
    },
}
#: All code points but surrogates, unassigned planes, and ideographs without a weight of their own.
CODE_POINTS = [*range(1, 0xD800), *range(0xE000, 0x1FC00), *range(0xE0000, 0xE0200)]
_ASCII = range(32, 127)


def record(server: AnyServer, database: str) -> Recorded:
    """What one server knows, in the form of the file."""
    with connect_mysql(server, database) as connection, connection.cursor() as cursor:
        cursor.execute("CREATE TABLE c (cp INT PRIMARY KEY, t VARCHAR(4) CHARACTER SET utf8mb4)")
        for start in range(0, len(CODE_POINTS), 20_000):
            values = ",".join(
                f"({cp}, CONVERT(_utf32 x'{cp:08x}' USING utf8mb4))"
                for cp in CODE_POINTS[start : start + 20_000]
            )
            cursor.execute(f"INSERT INTO c VALUES {values}")
        equal = {name.replace("utf8mb4_", ""): _equal(cursor, name) for name in EQUAL[server.kind]}
        case = {
            family: {which: _case(cursor, name, which) for which in ("lower", "upper")}
            for family, name in CASE[server.kind].items()
        }
    return {"equal": equal, "case": case}


def _select(cursor: Cursor, collation: str, expression: str) -> Iterator[tuple[int, str]]:
    """The code points with the result of an expression of the character, in hexadecimal digits."""
    text, where = f"t COLLATE {collation}", ""
    if collation.startswith("latin1"):
        text = f"CONVERT(t USING latin1) COLLATE {collation}"
        where = " WHERE CONVERT(CONVERT(t USING latin1) USING utf8mb4) COLLATE utf8mb4_bin = t"
    cursor.execute(f"SELECT cp, HEX({expression.format(text)}) FROM c{where} ORDER BY cp")
    for cp, result in cursor.fetchall():
        yield cp, result.decode() if isinstance(result, bytes) else result or ""


def _equal(cursor: Cursor, collation: str) -> dict[str, str]:
    weights = dict(_select(cursor, collation, "WEIGHT_STRING({})"))
    size = len(weights[ord("a")])
    ascii = {weights[cp]: chr(cp).lower() for cp in reversed(_ASCII)}
    found: dict[str, str] = {}
    for cp, weight in weights.items():
        parts = [weight[n : n + size] for n in range(0, len(weight), size)]
        if cp not in _ASCII and all(part in ascii for part in parts):
            text = "".join(ascii[part] for part in parts)
            found[text] = found.get(text, "") + chr(cp)
    if "" in found:
        found[""] = "\0" + found[""]
    return dict(sorted(found.items()))


def _case(cursor: Cursor, collation: str, which: str) -> list[str]:
    changed: dict[str, str] = {}
    expression = f"CONVERT({which}({{}}) USING utf8mb4)"
    for cp, result in _select(cursor, collation, expression):
        letter, other = chr(cp), bytes.fromhex(result).decode()
        if other != letter:
            # MySQL cuts a result that has more bytes than the text.
            changed[letter] = other or getattr(letter, which)()
    return ["".join(changed), "".join(changed.values())]


def main() -> None:
    """Record both servers, which agree about what both know."""
    found: Recorded = {"equal": {}, "case": {}}
    for start in (start_mysql, lambda: start_mariadb("11.8")):
        with obtain(start) as server:
            with connect_mysql(server) as connection, connection.cursor() as cursor:
                cursor.execute("CREATE DATABASE recorded CHARACTER SET utf8mb4")
            for kind, known in record(server, "recorded").items():
                found[kind] = known | found[kind]
    PATH.write_text(json.dumps(found, ensure_ascii=False, separators=(",", ":")) + "\n", "utf-8")


if __name__ == "__main__":
    main()
