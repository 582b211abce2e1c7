"""
The contract of a source, run against ``ChangelogSource``.
"""

import json
import time

import pytest
from tailrace_example.changelog import ChangelogSettings, ChangelogSource, TableSettings

from engine.contract_suite.origin import COLUMNS, HEARTBEAT_SECONDS, Origin
from engine.contract_suite.sources import LiveSourceContract


class ChangelogOrigin(Origin):
    def __init__(self, path):
        self.path = path
        self.path.touch()

    def execute(self, *transactions):
        with self.path.open("a") as file:
            for steps in transactions:
                changes = [
                    {"table": table, "before": image(table, old), "after": image(table, new)}
                    for table, old, new in steps
                ]
                file.write(json.dumps({"at": time.time(), "changes": changes}) + "\n")

    def source(self):
        tables = {
            "item": TableSettings({"id": "int64", "code": "text", "note": "text"}, ("id",)),
            "remark": TableSettings({"code": "text", "note": "text"}),
        }
        url = f"changelog:{self.path}"
        return ChangelogSource(ChangelogSettings(url, tables, HEARTBEAT_SECONDS))


def image(table, row):
    return None if row is None else dict(zip(COLUMNS[table], row, strict=True))


class TestChangelogSource(LiveSourceContract):
    @pytest.fixture
    def origin(self, tmp_path):
        return ChangelogOrigin(tmp_path / "shop.jsonl")
