"""
Statements whose effects the log does not show: the target equals the source afterwards.
"""

from __future__ import annotations

from collections.abc import Callable

import psycopg

from engine.pipeline.loop import Pipeline
from tests.support.compare import assert_equal
from tests.support.mirror import catch_up, make_pipeline
from tests.support.servers import AnyServer, connect_mysql
from tests.support.unlogged_cases import change_table, make_tables


def test_the_target_equals_the_source_after_each_kind(
    mysql_family: AnyServer,
    postgres: AnyServer,
    fresh_mysql_database: Callable[[AnyServer], str],
    fresh_postgres_database: Callable[[AnyServer], str],
) -> None:
    target, database = fresh_postgres_database(postgres), fresh_mysql_database(mysql_family)
    family = "mariadb" if "mariadb" in mysql_family.url else "mysql"
    writer = connect_mysql(mysql_family, database)

    def pipeline() -> Pipeline:
        return make_pipeline(mysql_family.url, target, [f"{database}.*"], name=database)

    with writer, psycopg.connect(target, autocommit=True) as there:
        cases = make_tables(writer, family)
        catch_up(pipeline())
        for name, case in cases.items():
            change_table(mysql_family, database, name, case)
        run = pipeline()
        catch_up(run)
        assert {it.state for it in run.status().tables} == {"live"}
        assert_equal(writer, there, database)
