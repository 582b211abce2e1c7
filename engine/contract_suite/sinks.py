"""
The contract of a sink (``engine.contract.Sink``) as a test class.
"""

from __future__ import annotations

import msgspec
import pytest

from engine.contract import Capabilities, Finding
from engine.contract_suite.sink_backfill import BackfillRules
from engine.contract_suite.sink_commands import CommandRules
from engine.contract_suite.sink_cutovers import CutoverRules
from engine.contract_suite.sink_dead_letters import DeadLetterRules
from engine.contract_suite.sink_proofs import ProofRules
from engine.contract_suite.sink_rows import DeletePartRules, RowRules, SchemaChangeRules
from engine.contract_suite.sink_state import StateRules, TransactionRules
from engine.contract_suite.target import KEYLESS, TABLE, Target, rule

__all__ = ["SinkContract"]


class SinkContract(
    StateRules,
    TransactionRules,
    RowRules,
    BackfillRules,
    SchemaChangeRules,
    DeletePartRules,
    CommandRules,
    DeadLetterRules,
    ProofRules,
    CutoverRules,
):
    """Every rule for a sink. A subclass, whose name starts with ``Test``, overrides the fixture
    ``target``.
    """

    @pytest.fixture
    def target(self) -> Target:
        """A new and empty target for one test."""
        raise NotImplementedError("override the fixture 'target' in your test class")

    def test_the_capabilities_are_known_without_a_connection(self, target: Target) -> None:
        sink = target.sink()
        assert isinstance(sink.capabilities, Capabilities)
        assert issubclass(sink.Settings, msgspec.Struct)

    @rule()
    async def test_a_preflight_of_tables_that_fit_finds_no_error(self, target: Target) -> None:
        sink = target.sink()
        findings = await sink.check([TABLE, KEYLESS])
        await sink.close()
        assert findings
        assert all(isinstance(finding, Finding) for finding in findings)
        assert [finding for finding in findings if finding.level == "error"] == []
        assert await sink.state() is None
