"""
The list of the peers, and the function that measures them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import psycopg
import pymysql

from benchmarks.peers.data_diff import DATA_DIFF, RELADIFF
from benchmarks.peers.debezium import Debezium
from benchmarks.peers.logical import LogicalReplication
from benchmarks.peers.mysql_replication import MySQLReplication
from benchmarks.peers.peer import Peer, PeerResult, Scenario
from benchmarks.peers.pg_chameleon import PgChameleon
from benchmarks.peers.pgloader import Pgloader
from benchmarks.peers.tailrace_on_mariadb import TailraceOnMariaDB
from engine.errors import TailraceError

__all__ = ["PEERS", "measure_peers"]

PEERS: tuple[Peer, ...] = (
    LogicalReplication(),
    Debezium(),
    PgChameleon(),
    Pgloader(),
    MySQLReplication(),
    TailraceOnMariaDB(),
    RELADIFF,
    DATA_DIFF,
)
HINT_LINES = 3
#: Errors of a peer, its programs and its servers. They become the reason in the peer's result, and
#: the next peer is measured.
FAILURES = (TailraceError, psycopg.Error, pymysql.MySQLError, OSError)


def measure_peers(
    scenario: Scenario, peers: Sequence[Peer], repeat: int, notify: Callable[[str], None]
) -> list[PeerResult]:
    """Measure, ``repeat`` times, each peer that takes part in the scenario's result."""
    found = []
    for peer in peers:
        if scenario.result in peer.results:
            result = PeerResult(name=peer.name)
            try:
                _measure(peer, result, scenario, repeat, notify)
            except FAILURES as error:
                result.reason = _reason(error)
                notify(f"{scenario.result}: {peer.name} cannot run: {result.reason}")
            found.append(result)
    return found


def _measure(
    peer: Peer, result: PeerResult, scenario: Scenario, repeat: int, notify: Callable[[str], None]
) -> None:
    notify(f"{scenario.result}: preparing {peer.name}")
    with peer.prepare(scenario) as prepared:
        result.version, result.note = prepared.version, prepared.note or None
        for number in range(1, repeat + 1):
            notify(f"{scenario.result}: {peer.name} ({number} of {repeat})")
            result.runs.append(prepared.run())


def _reason(error: BaseException) -> str:
    """The error's message and the last lines of its hint, such as the end of a program's output."""
    lines = getattr(error, "hint", "").strip().splitlines()
    return "\n".join([str(error).strip(), *lines[-HINT_LINES:]])
