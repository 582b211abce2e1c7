"""
The contract of a sink, run against ``SQLiteSink``.
"""

import sqlite3
from contextlib import closing

import pytest
from tailrace_example.sqlite import SQLiteSettings, SQLiteSink

from engine.contract_suite.sinks import SinkContract
from engine.contract_suite.target import PIPELINE, Target


class SQLiteTarget(Target):
    counts_drift = False

    def __init__(self, path):
        self.path = path

    def sink(self):
        return SQLiteSink(SQLiteSettings(f"sqlite:{self.path}"), PIPELINE)

    def rows(self, table):
        with closing(sqlite3.connect(self.path)) as database:
            try:
                return database.execute(f'SELECT * FROM "{table.id}"').fetchall()
            except sqlite3.OperationalError as error:
                raise KeyError(table.id) from error


class TestSQLiteSink(SinkContract):
    @pytest.fixture
    def target(self, tmp_path):
        return SQLiteTarget(tmp_path / "target.db")
