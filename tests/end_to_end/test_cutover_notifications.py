"""The steps of a cutover reach a webhook that fails at first."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from standardwebhooks.webhooks import Webhook

from engine.cli.main import main
from tests.end_to_end.test_cutover import prepare
from tests.engine.test_notify import SECRET, Hook
from tests.support.cutovers import RECORDED, become_ready, thawed_at_the_end
from tests.support.engine_process import EngineProcess
from tests.support.mysql_sessions import FreshDatabase
from tests.support.servers import AnyServer

pytestmark = pytest.mark.slow


@pytest.fixture
def failing() -> Iterator[Hook]:
    it = Hook(503, None)
    yield it
    it.close()


def test_a_webhook_is_told_of_each_step(
    mysql: AnyServer,
    fresh_mysql_database: FreshDatabase,
    target_database: str,
    tmp_path: Path,
    failing: Hook,
) -> None:
    config, _ = prepare(mysql, fresh_mysql_database(mysql), target_database, tmp_path)
    with config.open("a") as file:
        file.write(f'[notify.pager]\nurl = "{failing.url}"\nsecret = "{SECRET}"\n')
        file.write('events = ["cutover"]\n')
    with thawed_at_the_end(mysql), EngineProcess(config) as engine:
        become_ready(engine, config)
        assert main(["cutover", str(config)]) == 0
        assert engine.wait() == 0
    told: dict[str, str] = {}
    for headers, body in failing.requests:
        found = Webhook(SECRET).verify(body, headers)
        told[found["id"]] = found["type"]
        assert found["data"]["text"]
    assert list(told.values()) == [f"cutover.{it}" for it in RECORDED]
    # The first one was sent three times, with the same id.
    ids = [json.loads(body)["id"] for _, body in failing.requests]
    assert ids.count(ids[0]) == 3
