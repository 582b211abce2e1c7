"""
Documents of which the log has only the changed parts (``binlog_row_value_options=PARTIAL_JSON``).

The server logs parts only if they are shorter than the document, so each document has a filler.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pymysql.connections import Connection

from engine.change import Rows
from engine.databases.mysql.types import neutral_type
from engine.errors import DecodeError, UnloggedChange
from engine.schema import Column, Table, TableId
from sources.mysql.codec.json_diff import document_after
from sources.mysql.codec.rows import RowDecoder
from sources.mysql.codec.table_match import TableMap, parse_table_map
from tests.support.mysql_log import events, live_table, log_end
from tests.support.servers import AnyServer, connect_mysql
from tests.support.targets import Fresh

FILLER = "f" * 300
NAMES = ("a", "b", "bb", "", "é", "😀", "a b", 'q"\\', "a.b[0]", "last", "\n", "$", "%s", "1")
TABLE_MAP, UPDATE, PARTIAL_UPDATE = 19, 31, 39

scalars = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(1 << 63), (1 << 64) - 1),
    st.floats(allow_nan=False, allow_infinity=False),
    st.text(st.characters(exclude_categories=["Cs"]), max_size=6),
)
documents = st.recursive(
    scalars,
    lambda inner: st.one_of(
        st.lists(inner, max_size=4), st.dictionaries(st.sampled_from(NAMES), inner, max_size=4)
    ),
    max_leaves=8,
)
roots = st.one_of(
    st.dictionaries(st.sampled_from(NAMES), documents, max_size=5).map(
        lambda members: {**members, "filler": FILLER}
    ),
    st.lists(documents, max_size=4).map(lambda elements: [*elements, FILLER]),
)
names = st.sampled_from(NAMES).map(lambda name: "." + json.dumps(name, ensure_ascii=False))
cells = st.sampled_from(["[0]", "[1]", "[2]", "[7]", "[last]", "[last-1]", "[last-9]"])
paths = st.lists(st.one_of(names, cells), min_size=1, max_size=3).map(lambda it: "$" + "".join(it))
#: SQL expressions of values, with their parameters.
values = st.one_of(
    documents.map(lambda value: ("CAST(%s AS JSON)", json.dumps(value, ensure_ascii=False))),
    st.sampled_from(
        [
            ("CAST(%s AS DECIMAL(65,30))", "12345678901234567890.000000000012345678901234567890"),
            ("CAST(%s AS DATETIME(6))", "2024-02-29 23:59:59.999999"),
            ("CAST(%s AS DATE)", "0001-01-01"),
            ("CAST(%s AS TIME(6))", "-838:59:58.000001"),
            ("CAST(%s AS BINARY)", "\0\1bytes" * 12),
            ("%s", "a text ж€😀"),
        ]
    ),
)
#: The name of a function, its path and its value. Several are nested in one statement.
calls = st.tuples(st.sampled_from(["JSON_SET", "JSON_REPLACE", "JSON_REMOVE"]), paths, values)
updates = st.lists(calls, min_size=1, max_size=3)


def expression(column: str, calls: Sequence[tuple[str, str, tuple[str, str]]]) -> tuple[str, Any]:
    """The functions, each with the result of the one before, and their parameters."""
    sql, parameters = column, []
    for function, path, (value, parameter) in calls:
        removes = function == "JSON_REMOVE"
        sql = f"{function}({sql}, %s)" if removes else f"{function}({sql}, %s, {value})"
        parameters += [path] if removes else [path, parameter]
    return sql, parameters


class Log:
    """A session that logs parts of documents, and the rows of its updates."""

    def __init__(self, server: AnyServer, database: str, image: str = "FULL") -> None:
        self._server = server
        self._connection: Connection[Any] = connect_mysql(server, database)
        self._database = database
        self("SET binlog_row_value_options = 'PARTIAL_JSON', binlog_row_image = %s", image)

    def __call__(self, sql: str, *parameters: Any) -> list[tuple[Any, ...]]:
        with self._connection.cursor() as cursor:
            cursor.execute(sql, parameters or None)
            return list(cursor.fetchall())

    def close(self) -> None:
        self._connection.close()

    def table(self, name: str = "t") -> Table:
        return live_table(self._connection, self._database, name)

    def end(self) -> tuple[str, int]:
        return log_end(self._connection)

    def updates(self, table: Table, place: tuple[str, int]) -> Iterator[tuple[bytes, Rows]]:
        """The event and the rows of each update after ``place``."""
        map: TableMap | None = None
        for kind, body in events(self._server, *place):
            if kind == TABLE_MAP:
                map = parse_table_map(body, 0, len(body))
            elif kind in (UPDATE, PARTIAL_UPDATE):
                assert map is not None
                partial = kind == PARTIAL_UPDATE
                yield (
                    body,
                    RowDecoder(table, map).decode(
                        "update", body, 10, len(body), partial_json=partial
                    ),
                )


@pytest.fixture
def log(mysql: AnyServer, fresh_mysql_database: Fresh) -> Iterator[Log]:
    log = Log(mysql, fresh_mysql_database(mysql))
    yield log
    log.close()


def test_random_updates_of_random_documents(log: Log) -> None:
    """Each document in the log is what the server prints after the update."""
    log("CREATE TABLE t (id INT PRIMARY KEY, n INT, j JSON, k JSON)")
    table = log.table()
    partial = 0

    @settings(
        max_examples=60,
        deadline=None,
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
    )
    @given(st.lists(st.tuples(roots, roots, updates, st.none() | updates), min_size=1, max_size=6))
    def check(cases: list[Any]) -> None:
        nonlocal partial
        log("DELETE FROM t")
        texts = [[json.dumps(it, ensure_ascii=False) for it in case[:2]] for case in cases]
        for id, both in enumerate(texts):
            log("INSERT INTO t VALUES (%s, 0, %s, %s)", id, *both)
        place = log.end()
        printed = []
        for id, (_, _, first, second) in enumerate(cases):
            sql, parameters = expression("j", first)
            sets, all_parameters = f"n = n + 1, j = {sql}", list(parameters)
            if second is not None:
                sql, parameters = expression("k", second)
                sets, all_parameters = f"{sets}, k = {sql}", all_parameters + parameters
            log(f"UPDATE t SET {sets} WHERE id = %s", *all_parameters, id)
            printed += log("SELECT id, n, j, k FROM t WHERE id = %s", id)
        found = list(log.updates(table, place))
        partial += sum(body.count(FILLER.encode()) < 4 for body, _ in found)
        assert [row for _, rows in found for row in rows.after or ()] == printed

    check()
    assert partial > 20


def test_several_columns_and_images(log: Log) -> None:
    """Some documents change in part, some as a whole, some not, and some are or become NULL."""
    columns = [f"j{number}" for number in range(10)]
    log(f"CREATE TABLE t (v INT, {', '.join(f'{name} JSON' for name in columns)})")
    table = log.table()
    document = json.dumps({"a": 1, "filler": FILLER})
    log(f"INSERT INTO t VALUES (1, {', '.join(['%s'] * 10)})", *[document] * 9, None)
    found, printed = [], []
    for image in ("FULL", "MINIMAL", "NOBLOB"):
        log("SET binlog_row_image = %s", image)
        place = log.end()
        for assigned in (
            "j8 = JSON_SET(j8, '$.a', 2)",
            "j1 = '[1]', j8 = JSON_REMOVE(j8, '$.a'), v = 7",
            "j8 = NULL, j0 = JSON_SET(j0, '$.a', j1)",
            "j8 = '{}', j9 = '1', j0 = JSON_REMOVE(j0, '$.none')",
            "j1 = j0, j8 = j0, j9 = NULL, v = v + 1",
        ):
            log(f"UPDATE t SET {assigned}")
            printed += log("SELECT * FROM t")
        for _, rows in log.updates(table, place):
            (before,), (after,) = rows.before or (), rows.after or ()
            mask = -1 if rows.after_present is None else rows.after_present
            found.append(
                tuple(
                    new if mask >> n & 1 else old
                    for n, (old, new) in enumerate(zip(before, after, strict=True))
                )
            )
    assert found == printed


def test_parts_without_the_document_before_are_refused(
    mysql: AnyServer, fresh_mysql_database: Fresh
) -> None:
    """The image has no document: with MINIMAL and NOBLOB of a table with a key."""
    log = Log(mysql, fresh_mysql_database(mysql), "MINIMAL")
    try:
        log("CREATE TABLE t (id INT PRIMARY KEY, j JSON, k JSON)")
        table = log.table()
        log("INSERT INTO t VALUES (1, %s, '[]')", json.dumps({"a": FILLER, "b": 1}))
        place = log.end()
        log("UPDATE t SET k = '{}'")
        [(_, rows)] = log.updates(table, place)
        assert rows.after == [(1, None, "{}")]
        assert rows.after_present == 0b101
        place = log.end()
        log("UPDATE t SET j = JSON_SET(j, '$.b', 2), k = '[2]'")
        with pytest.raises(UnloggedChange, match="changed parts of JSON") as caught:
            list(log.updates(table, place))
        assert "binlog_row_value_options" in caught.value.hint
        assert caught.value.table == str(table.id)

        log("SET binlog_row_image = 'NOBLOB'")
        place = log.end()
        log("UPDATE t SET j = JSON_SET(j, '$.b', 3), k = '[3]'")
        [(_, rows)] = log.updates(table, place)
        assert rows.after == log("SELECT * FROM t")  # there it is in the image
    finally:
        log.close()


#: A table map and an update of ``(id INT PRIMARY KEY, j JSON, k JSON)`` from MySQL 9.7.
RECORDED_MAP = bytes.fromhex(
    "6a000000000001000e745f386633663864356236333836000174000303f5f5020404060101000407026964016a016b"
    "0801000c01e0"
)
RECORDED = bytes.fromhex(
    "6a00000000001100020003ffff000100000073000000000200720012000100130006000019000c43006166696c6c65"
    "7202002a00120000001200010004000002130062030017000501000b0d000c1500000000000000044001782e"
    + "66"
    * 46
    + "0e0000000203000d00050100050200050300010100010000004f0000000008242e612e625b305d090a"
    "ffffffffffffffff020b242e612e625b6c6173745d0106242e612e62621800010017000b0003000f0e00c3a922f607"
    "0b02800000010a0108242e612e625b375d020400050000000200000400"
)


def recorded() -> tuple[RowDecoder, Table]:
    map = parse_table_map(RECORDED_MAP, 0, len(RECORDED_MAP))
    columns = [
        Column(name, neutral_type(base), base)
        for name, base in (("id", "int"), ("j", "json"), ("k", "json"))
    ]
    table = Table(TableId("s", "t"), tuple(columns), (0,))
    return RowDecoder(table, map), table


def test_a_recorded_update() -> None:
    decoder, _ = recorded()
    rows = decoder.decode("update", RECORDED, 10, len(RECORDED), partial_json=True)
    filler = f'"filler": "{"f" * 46}"'
    assert rows.before == [(1, f'{{"a": {{"": null, "b": [1, 2.5, "x"]}}, {filler}}}', "[1, 2, 3]")]
    b = "[18446744073709551615, 2.5, null]"
    after = f'{{"a": {{"": null, "b": {b}, "bb": {{"é\\"": 1.10}}}}, {filler}}}'
    assert rows.after == [(1, after, "[]")]


def test_damaged_updates_are_refused() -> None:
    decoder, table = recorded()
    for end in range(14, len(RECORDED)):
        with pytest.raises(DecodeError) as caught:
            decoder.decode("update", RECORDED, 10, end, partial_json=True)
        assert caught.value.table == table.id or caught.value.table == str(table.id)
    for at in range(len(RECORDED) - 100, len(RECORDED)):
        for byte in (0, 3, 0x7F, 0xFB, 0xFF):
            damaged = RECORDED[:at] + bytes([byte]) + RECORDED[at + 1 :]
            with suppress(DecodeError):
                decoder.decode("update", damaged, 10, len(damaged), partial_json=True)


@pytest.mark.parametrize(
    ("before", "diffs"),
    [
        ("[]", b"\x02\x04$[0]"),
        ("[1]", b"\x02\x09$[last-1]"),
        ("[1]", b"\x02\x03$.a"),
        ('{"a": 1}', b"\x02\x04$[0]"),
        ('{"a": 1}', b"\x01\x03$.a\x02\x04\x00"),
        ('{"a": 1}', b"\x00\x05$.a.b\x02\x04\x00"),
        ('{"a": 1}', b"\x03\x03$.a\x02\x04\x00"),
        ('{"a": 1}', b"\x02\x01$"),
        ('{"a": 1}', b"\x02\x03$**"),
        ('{"a": 1}', b"\x02\x04$[x]"),
        ('{"a": 1}', b"\x02\x7f$.a"),
        (None, b""),
    ],
)
def test_diffs_of_another_document_are_refused(before: str | None, diffs: bytes) -> None:
    with pytest.raises((ValueError, IndexError)):
        document_after(before, diffs, 1)
