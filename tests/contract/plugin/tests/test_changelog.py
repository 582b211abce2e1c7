"""
The contract of a source, run against ``ChangelogSource``.
"""

import json
import time

import pytest
from tailrace_example.changelog import ChangelogSettings, ChangelogSource, TableSettings

from engine.contract_suite.origin import Origin
from engine.contract_suite.sources import LiveSourceContract

TEXTS = {"code": "text", "note": "text"}


class ChangelogOrigin(Origin):
    def __init__(self, path):
        self.path = path
        self.path.touch()

    def execute(self, *transactions):
        with self.path.open("a") as file:
            for changes in transactions:
                file.write(json.dumps({"at": time.time(), "changes": changes}) + "\n")

    def source(self):
        tables = {"item": TableSettings({"id": "int64"}, TEXTS), "remark": TableSettings({}, TEXTS)}
        return ChangelogSource(ChangelogSettings(f"changelog:{self.path}", tables))


class TestChangelogSource(LiveSourceContract):
    @pytest.fixture
    def origin(self, tmp_path):
        return ChangelogOrigin(tmp_path / "shop.jsonl")
