"""
Shops to mirror, and the comparison at the end.

Each shop is a new database with a unique name. So a test neither finds the data of another test nor
changes a database of yours.
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
    """A loaded shop. The name of its database is also the name of the schema in the target."""

    server: AnyServer
    database: str

    @property
    def url(self) -> str:
        """The URL of the database, for the shop's own application."""
        return f"{self.server.url.rpartition('/')[0]}/{self.database}"

    @property
    def tables(self) -> str:
        """The pattern that matches all its tables."""
        return f"{self.database}.*"


def load_new_shop(server: AnyServer, rows: int) -> Shop:
    """Load a shop of about ``rows`` rows into a new database."""
    shop = Shop(server, f"shop_{uuid4().hex[:12]}")
    load_shop(shop.url, rows)
    return shop


def catch_up(config: Path) -> None:
    """Run the engine until it has applied everything that the source holds now."""
    with EngineProcess(config, "--until-caught-up") as engine:
        assert engine.wait() == 0, engine.tail()


def assert_mirrored(shop: Shop, target: str, transactions: int) -> None:
    """Fail unless both sides are equal, column by column, and each of the writer's
    ``transactions`` arrived exactly once.
    """
    ledger = sql.SQL("SELECT count(*), count(DISTINCT number) FROM {}").format(
        sql.Identifier(shop.database, "ledger")
    )
    with connect_mysql(shop.server) as source, psycopg.connect(target, autocommit=True) as there:
        assert_equal(source, there, shop.database)
        assert there.execute(ledger).fetchone() == (transactions, transactions)
