"""
The contract of a sink, run against ``JSONFileSink``.
"""

import json

import pytest
from tailrace_example.jsonfile import JSONFileSettings, JSONFileSink

from engine.contract_suite.sinks import SinkContract
from engine.contract_suite.target import PIPELINE, Target


class JSONFileTarget(Target):
    def __init__(self, folder):
        self.folder = folder

    def sink(self):
        return JSONFileSink(JSONFileSettings(f"jsonfile:{self.folder}"), PIPELINE)

    def rows(self, table):
        tables = json.loads((self.folder / "state.json").read_text())["own"]["tables"]
        rows = {(one["table"]["schema"], one["table"]["name"]): one["rows"] for one in tables}
        return [tuple(row.values()) for row in rows[table.id.schema, table.id.name]]


class TestJSONFileSink(SinkContract):
    @pytest.fixture
    def target(self, tmp_path):
        return JSONFileTarget(tmp_path / "copy")
