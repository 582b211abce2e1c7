"""
A shop to mirror, and the proof at a mirror's end.

The idea: each shop is a database of its own with a name that nothing else has, so a test can
neither meet another one's leavings nor harm a person's own database.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from uuid import uuid4

import psycopg
from psycopg import sql

from engine.demo.shop import load_shop
from tests.support.compare import assert_equal
from tests.support.engine_process import EngineProcess
from tests.support.servers import AnyServer, connect_mysql

__all__ = ["Shop", "assert_mirrored", "catch_up", "load_new_shop"]


@dataclass(frozen=True)
class Shop:
    """A loaded shop: the server, and the database's name, which is the target's schema too."""

    server: AnyServer
    database: str

    @property
    def url(self) -> str:
        """The URL of the database, as the shop's own software uses it."""
        return f"{self.server.url.rpartition('/')[0]}/{self.database}"

    @property
    def tables(self) -> str:
        """The pattern of all its tables."""
        return f"{self.database}.*"


def load_new_shop(server: AnyServer, rows: int) -> Shop:
    """Load a shop of about ``rows`` rows into a new database."""
    shop = Shop(server, f"shop_{uuid4().hex[:12]}")
    load_shop(shop.url, rows)
    return shop


def catch_up(config: Path) -> None:
    """Run the engine until it has applied all that the source holds now."""
    with EngineProcess(config, "--until-caught-up") as engine:
        assert engine.wait() == 0, engine.tail()


def assert_mirrored(shop: Shop, target: str, transactions: int) -> None:
    """Both sides are equal, column by column, and each of the writer's ``transactions`` arrived
    exactly once."""
    ledger = sql.SQL("SELECT count(*), count(DISTINCT number) FROM {}").format(
        sql.Identifier(shop.database, "ledger")
    )
    with connect_mysql(shop.server) as source, psycopg.connect(target, autocommit=True) as there:
        assert_equal(source, there, shop.database)
        assert there.execute(ledger).fetchone() == (transactions, transactions)
