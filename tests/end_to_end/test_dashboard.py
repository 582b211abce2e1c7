"""The dashboard of a real engine, in a browser: what it shows, and what it does."""

from __future__ import annotations

from pathlib import Path

import psycopg

from tests.support.browser import Page, open_page
from tests.support.engine_process import EngineProcess, write_config
from tests.support.servers import AnyServer, connect_mysql
from tests.support.waiting import wait_until


def assert_it_outlasts_the_engine(page: Page, engine: EngineProcess, config: Path) -> None:
    """Without an engine the page says so, and goes on when there is one again."""
    engine.kill()
    page.wait_text("#headline", "No answer from the engine since")
    page.wait_text("#remedy", "tailrace run CONFIG")
    again = EngineProcess(config, "--listen", f"127.0.0.1:{engine.port}")
    page.wait_text("#headline", "Following.")
    page.click('[data-command="stop"]')
    page.click("#confirm-yes")
    assert again.wait() == 0
    page.wait_text("#headline", "No answer from the engine since")
    assert page.complaints() == []


def test_the_dashboard_of_an_engine(
    mysql: AnyServer, source_database: str, target_database: str, tmp_path: Path
) -> None:
    config = write_config(tmp_path, mysql.url, target_database, f"{source_database}.*")
    with (
        connect_mysql(mysql, source_database) as source,
        source.cursor() as cursor,
        psycopg.connect(target_database, autocommit=True) as there,
    ):

        def insert() -> None:
            cursor.execute("INSERT INTO orders VALUES ()")
            source.commit()

        def count() -> int:
            row = there.execute(
                f'SELECT count(*) FROM "{source_database}".orders'.encode()
            ).fetchone()
            return int(row[0]) if row else 0

        cursor.execute("CREATE TABLE orders (id INT AUTO_INCREMENT PRIMARY KEY)")
        insert()
        engine = EngineProcess(config)
        engine.wait_status(lambda it: it["state"] == "streaming")
        with open_page(f"http://127.0.0.1:{engine.port}/", tmp_path / "browser") as page:
            page.wait_text("#headline", "Following.")
            insert()
            page.wait_text("#tables tbody tr", f"{source_database}.orders", "live", "1")

            # A command asks first. No changes nothing.
            page.click('[data-command="pause"]')
            page.wait_text("#confirm-title", "Pause?")
            page.click("#confirm button[value=no]")
            page.click('[data-command="pause"]')
            page.click("#confirm-yes")
            page.wait_text("#headline", "Paused.")
            page.wait_text("#outcome", "Done: paused")
            insert()
            page.click('[data-command="resume"]')
            page.click("#confirm-yes")
            page.wait_text("#headline", "Following.")
            wait_until(lambda: count() == 3, what="the row")
            page.click(f'[data-row="backfill {source_database}.orders"]')
            page.click("#confirm-yes")
            page.wait_text("#outcome", "read again")
            page.click("#record summary")
            page.wait_text("#record", "dashboard through the API", "pause", "backfill")
            assert page.complaints() == []

            assert_it_outlasts_the_engine(page, engine, config)
