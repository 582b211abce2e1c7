"""
The peers that there are, and their turns.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import psycopg
import pymysql

from benchmarks.peers.debezium import Debezium
from benchmarks.peers.logical import LogicalReplication
from benchmarks.peers.mysql_replication import MySQLReplication
from benchmarks.peers.peer import Peer, PeerResult, Scene
from benchmarks.peers.pg_chameleon import PgChameleon
from benchmarks.peers.pgloader import Pgloader
from engine.errors import TailraceError

__all__ = ["PEERS", "measure_peers"]

PEERS: tuple[Peer, ...] = (
    LogicalReplication(),
    Debezium(),
    PgChameleon(),
    Pgloader(),
    MySQLReplication(),
)
#: What a peer's servers and programs may answer; all of it is a reason, and the next peer's turn.
HINT_LINES = 3
FAILURES = (TailraceError, psycopg.Error, pymysql.MySQLError, OSError)


def measure_peers(
    scene: Scene, peers: Sequence[Peer], repeat: int, tell: Callable[[str], None]
) -> list[PeerResult]:
    """Each of the peers that takes part in the scene's result, ``repeat`` times."""
    found = []
    for peer in peers:
        if scene.result in peer.results:
            result = PeerResult(name=peer.name)
            try:
                _take_turns(peer, result, scene, repeat, tell)
            except FAILURES as error:
                result.reason = _reason(error)
                tell(f"{scene.result}: {peer.name} cannot run: {result.reason}")
            found.append(result)
    return found


def _take_turns(
    peer: Peer, result: PeerResult, scene: Scene, repeat: int, tell: Callable[[str], None]
) -> None:
    tell(f"{scene.result}: {peer.name} makes ready")
    with peer.ready(scene) as ready:
        result.version, result.note = ready.version, ready.note or None
        for number in range(1, repeat + 1):
            tell(f"{scene.result}: {peer.name} ({number} of {repeat})")
            result.turns.append(ready.turn())


def _reason(error: BaseException) -> str:
    """The message, and of a program's last words the end."""
    lines = getattr(error, "hint", "").strip().splitlines()
    return "\n".join([str(error).strip(), *lines[-HINT_LINES:]])
