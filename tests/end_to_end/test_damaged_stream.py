"""
A log stream that is damaged on its way, and servers that are probed.
"""

from __future__ import annotations

import socket

import psycopg

from engine.sandbox.proxy import Proxy
from sinks.postgres.settings import PostgresSettings
from sinks.postgres.sink import PostgresSink
from sources.mysql.settings import MySQLSettings
from sources.mysql.source import MySQLSource
from tests.support.mirror import make_pipeline, running
from tests.support.mysql_sessions import FreshDatabase, Writer
from tests.support.servers import AnyServer
from tests.support.waiting import wait_until

MANY = ", ".join(f"({id}, REPEAT('x', 50))" for id in range(1000))


def test_a_flipped_bit_costs_a_reconnection(
    mysql_family: AnyServer, fresh_mysql_database: FreshDatabase, target_database: str
) -> None:
    """The checksum shows the damage, and the log is read again from the checkpoint."""
    server, database = mysql_family, fresh_mysql_database(mysql_family)
    writer = Writer(server, database)
    writer("CREATE TABLE t (id INT PRIMARY KEY, v TEXT)", "INSERT INTO t VALUES (-1, 'a')")
    with (
        Proxy(server.host, server.port) as proxy,
        psycopg.connect(target_database, autocommit=True) as target,
    ):
        url = server.url.replace(str(server.port), str(proxy.port))
        pipeline = make_pipeline(url, target_database, [f"{database}.*"], tls="disable")
        with running(pipeline):
            wait_until(lambda: pipeline.status().state == "streaming", what="the stream")
            for _ in range(2):
                proxy.flip()
                writer(f"REPLACE INTO t VALUES {MANY}")
                wait_until(lambda: not proxy.flips_left, what="the damage")

            def rows() -> int:
                ((count,),) = target.execute(f"SELECT count(*) FROM {database}.t".encode())
                return int(count)

            wait_until(lambda: rows() == 1001, what="all rows")
        assert pipeline.counters.reconnects >= 1
    writer.connection.close()


def test_a_server_is_reachable_or_not(mysql_family: AnyServer, target_database: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = str(probe.getsockname()[1])
    there = target_database.rpartition("@")[2].partition("/")[0].rpartition(":")[2]
    for url, reachable in (
        (mysql_family.url, True),
        (mysql_family.url.replace(str(mysql_family.port), port), False),
    ):
        assert MySQLSource(MySQLSettings(url=url)).reachable() is reachable
    for url, reachable in (
        (target_database, True),
        (target_database.replace(f":{there}/", f":{port}/"), False),
    ):
        assert PostgresSink(PostgresSettings(url), "p").reachable() is reachable
