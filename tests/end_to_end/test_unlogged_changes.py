"""
Statements whose effects the log does not show: the target equals the source afterwards.
"""

from __future__ import annotations

from collections.abc import Callable

import psycopg
import pytest

from engine.pipeline.loop import Pipeline
from tests.support.compare import assert_equal
from tests.support.mirror import catch_up, make_pipeline
from tests.support.servers import AnyServer, connect_mysql
from tests.support.unlogged_cases import change_table, make_tables


def check_each_kind(server: AnyServer, database: str, target: str) -> None:
    writer = connect_mysql(server, database)

    def pipeline() -> Pipeline:
        return make_pipeline(server.url, target, [f"{database}.*"], name=database)

    with writer, psycopg.connect(target, autocommit=True) as there:
        cases = make_tables(writer, server)
        catch_up(pipeline())
        for name, case in cases.items():
            change_table(server, database, name, case)
        run = pipeline()
        catch_up(run)
        assert {it.state for it in run.status().tables} == {"live"}
        assert_equal(writer, there, database)


def test_the_target_equals_the_source_after_each_kind(
    mysql_family: AnyServer,
    fresh_mysql_database: Callable[[AnyServer], str],
    target_database: str,
) -> None:
    check_each_kind(mysql_family, fresh_mysql_database(mysql_family), target_database)


@pytest.mark.slow
def test_the_target_equals_an_old_server_after_each_kind(
    old_server: AnyServer,
    fresh_mysql_database: Callable[[AnyServer], str],
    target_database: str,
) -> None:
    check_each_kind(old_server, fresh_mysql_database(old_server), target_database)
