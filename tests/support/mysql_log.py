"""
Decodes the rows that statements write to a server's log, for tests of values.

It requests the log with COM_BINLOG_DUMP up to the end, and parses only the header of each event. So
a bug in the engine's own framing cannot hide one in the values.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence

from pymysql.connections import Connection

from engine.change import Operation, Row, Rows
from engine.schema import Table, TableId
from engine.toolkit.accelerator import python_only
from sources.mysql.catalog import read_table
from sources.mysql.codec.rows import RowDecoder
from sources.mysql.codec.table_match import TableMap, mismatch, parse_table_map
from sources.mysql.snapshot.text_rows import select_list, text_rows
from tests.support.servers import AnyServer, connect_mysql

TABLE_MAP = 19
# Event type → operation.
ROWS: dict[int, Operation] = {
    23: "insert",
    24: "update",
    25: "delete",
    30: "insert",
    31: "update",
    32: "delete",
}
HEADER, CHECKSUM = 19, 4


def log_end(connection: Connection) -> tuple[str, int]:
    """The file and offset of the end of the log."""
    mariadb = "MariaDB" in connection.get_server_info()
    with connection.cursor() as cursor:
        cursor.execute("SHOW MASTER STATUS" if mariadb else "SHOW BINARY LOG STATUS")
        row = cursor.fetchone()
    return row[0], row[1]


def events(server: AnyServer, file: str, offset: int) -> Iterator[tuple[int, bytes]]:
    """Type and body of each event from the offset to the end of the log."""
    connection = connect_mysql(server)
    try:
        with connection.cursor() as cursor:
            cursor.execute("SET @master_binlog_checksum = 'CRC32', @mariadb_slave_capability = 4")
        dump = struct.pack("<IHI", offset, 1, 999_999) + file.encode()
        connection._execute_command(0x12, dump)
        while not (packet := connection._read_packet()).is_eof_packet():
            event = packet.get_all_data()[1:]
            yield event[4], event[HEADER:-CHECKSUM]
    finally:
        connection.close()


def logged(
    server: AnyServer, connection: Connection, statements: Sequence[str]
) -> list[tuple[Operation, TableMap, bytes]]:
    """Run the statements. Returns operation, table map and row images of each rows event."""
    file, offset = log_end(connection)
    with connection.cursor() as cursor:
        for statement in statements:
            cursor.execute(statement)
    found = []
    table_map = None
    for kind, body in events(server, file, offset):
        if kind == TABLE_MAP:
            table_map = parse_table_map(body, 0, len(body), mariadb=server.kind == "mariadb")
        elif kind in ROWS:
            assert table_map is not None
            start = 8 if kind < 30 else 8 + int.from_bytes(body[8:10], "little")
            found.append((ROWS[kind], table_map, body[start:]))
    return found


def logged_rows(
    server: AnyServer, connection: Connection, table: Table, statements: Sequence[str]
) -> list[Rows]:
    """Run the statements. Returns the rows of each rows event, decoded as rows of ``table``. Fails
    unless the accelerator and the generated Python decode the same.
    """
    decoded = []
    for op, table_map, images in logged(server, connection, statements):
        assert mismatch(table, table_map) is None
        rows = RowDecoder(table, table_map).decode(op, images, 0, len(images))
        with python_only():
            plain = RowDecoder(table, table_map).decode(op, images, 0, len(images))
        assert as_text(rows) == as_text(plain)
        decoded.append(rows)
    return decoded


def as_text(rows: Rows) -> str:
    """All results of a decoder as text that tells types apart and in which NaN equals NaN."""
    masks = rows.before_present, rows.after_present
    return f"{rows.table.id} {rows.op} {rows.before} {rows.after} {masks} {rows.size}"


def live_table(connection: Connection, schema: str, name: str) -> Table:
    table = read_table(connection, TableId(schema, name))
    assert table is not None
    return table


def selected_rows(server: AnyServer, table: Table, suffix: str = "") -> list[Row]:
    """The rows of the table, read by the text protocol and decoded by the engine."""
    connection = connect_mysql(server)
    try:
        with connection.cursor() as cursor:
            cursor.execute("SET time_zone = '+00:00', sql_mode = '', character_set_results = NULL")
        query = f"SELECT {select_list(table)} FROM `{table.id.schema}`.`{table.id.name}` {suffix}"
        connection._execute_command(3, query)
        columns = connection._read_packet().read_length_encoded_integer()
        for _ in range(columns + 1):
            connection._read_packet()
        packets = []
        while not (packet := connection._read_packet()).is_eof_packet():
            packets.append(packet.get_all_data())
        return text_rows(table).decode(packets)
    finally:
        connection.close()
