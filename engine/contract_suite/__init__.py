"""
The tests that every source and every sink must pass, for authors of either.

The package needs pytest (``pip install 'tailrace[contract]'``); nothing else in Tailrace imports
it. A test class names the contract, and a fixture makes an empty place to write to or to read from:

    from engine.contract_suite.sinks import SinkContract
    from engine.contract_suite.target import PIPELINE, Target

    class MyTarget(Target):
        def sink(self): return MySink(MySettings("my:…"), PIPELINE)
        def rows(self, table): return [...]  # the committed rows

    class TestMySink(SinkContract):
        @pytest.fixture
        def target(self): return MyTarget()

The modules:

    sinks        SinkContract
    sources      SourceContract, LiveSourceContract, FiniteSourceContract
    snapshots    SnapshotSourceContract
    freezing     FreezableContract
    target       what an author of a sink provides; the tables and changes of the tests
    origin       what an author of a source provides; the reading of a stream
    faults       a sink around another, whose calls fail as planned
    replay       the rows that a reader of change records has (``engine.toolkit.record``)
    sink_*       the parts of SinkContract

docs/writing-a-sink.md and docs/writing-a-source.md build one of each, step by step. A rule that
holds only for a capability is skipped for a sink that does not declare it.
"""

from __future__ import annotations

import pytest

#: pytest shows the values in a failed assert only in modules that are named before their import.
pytest.register_assert_rewrite(
    *(
        f"{__name__}.{module}"
        for module in (
            *("origin", "replay", "sink_backfill", "sink_commands", "sink_cutovers"),
            *("sink_dead_letters", "sink_proofs", "sink_rows", "sink_state", "sinks"),
            *("freezing", "snapshots", "sources", "target"),
        )
    )
)
