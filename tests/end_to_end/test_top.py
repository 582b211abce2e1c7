"""``tailrace top`` with an engine that is paused by a key, killed, and started again."""

from __future__ import annotations

import asyncio
from pathlib import Path

from textual.widgets import Static

from engine.cli.api_address import ApiAddress
from engine.cli.top.app import TopApp
from engine.cli.top.watched import Watched
from tests.support.engine_process import EngineProcess, write_config
from tests.support.servers import AnyServer, connect_mysql
from tests.support.waiting import wait_until_async


def test_an_engine_is_paused_killed_and_back(
    mysql: AnyServer, source_database: str, target_database: str, tmp_path: Path
) -> None:
    with connect_mysql(mysql, source_database) as source, source.cursor() as cursor:
        cursor.execute("CREATE TABLE orders (id INT PRIMARY KEY)")
        source.commit()
    config = write_config(tmp_path, mysql.url, target_database, f"{source_database}.*")

    async def run(engine: EngineProcess) -> None:
        listen = f"127.0.0.1:{engine.port}"
        watched = Watched("x", ApiAddress(f"http://{listen}"))
        app = TopApp([watched])
        async with app.run_test(size=(80, 24)) as pilot:

            async def reads(name: str, words: str) -> None:
                def shown() -> bool:
                    return words in str(app.screen.query_one(f"#{name}", Static).content)

                await wait_until_async(shown, timeout=60, what=f"{words} in {name}")

            await reads("head", "Following.")
            await reads("figures", "tables 1")
            await pilot.press("p", "y")
            await reads("outcome", "pause: paused, nothing is applied")
            await reads("head", "Paused.")
            await asyncio.to_thread(engine.kill)
            await reads("head", "No answer since")
            with EngineProcess(config, "--listen", listen):
                await reads("head", "Paused.")
                await pilot.press("r", "y")
                await reads("outcome", "resume: resumed")
                await reads("head", "Following.")
                await pilot.press("q", "y")
                await reads("head", "1 table is quarantined.")
                assert watched.status is not None
                assert [table.state for table in watched.status.tables] == ["quarantined"]

    with EngineProcess(config) as engine:
        asyncio.run(asyncio.wait_for(run(engine), 100))
