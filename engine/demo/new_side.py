"""
The shop's transactions on the new side, as its software runs them after the switch.

They insert into tables with and without a generated key, and update rows that came from the old
side. Each has its row in ``ledger``, so the ledger goes on where it stood.
"""

from __future__ import annotations

from collections.abc import Callable
from random import Random
from typing import Any, TypeAlias

import psycopg
from psycopg import sql

__all__ = ["NewSide"]

Transaction: TypeAlias = Callable[[], None]


class NewSide:
    """Runs transactions on the shop in the schema ``schema`` of PostgreSQL.

    ``counts`` is the number of committed transactions by kind, and ``rows`` that of the rows that
    they have inserted, by table.
    """

    def __init__(self, connection: psycopg.Connection[Any], schema: str, seed: int) -> None:
        # Else a query outside of ``transaction()`` would begin one that lasts to the end.
        connection.autocommit = True
        connection.execute("SELECT set_config('search_path', %s, false)", (schema,))
        self._connection = connection
        self._random = Random(seed)
        self._number = self._value("SELECT max(number) FROM ledger")
        self._customers = self._value("SELECT max(id) FROM customers")
        self._order_number = self._value("SELECT max(id) FROM orders")
        self._inserted: list[str] = []
        self._kinds: tuple[Transaction, ...] = (self._order, self._register, self._edit, self._ship)
        self.counts: dict[str, int] = {}
        self.rows: dict[str, int] = {}

    def next(self) -> None:
        """Run and commit one transaction of a random kind."""
        kind = self._random.choice(self._kinds)
        name = kind.__name__.lstrip("_")
        self._inserted.clear()
        with self._connection.transaction():
            kind()
            self._insert("ledger", number=self._number + 1, kind=f"new {name}")
        self._number += 1
        self.counts[name] = self.counts.get(name, 0) + 1
        for table in self._inserted:
            self.rows[table] = self.rows.get(table, 0) + 1

    def _order(self) -> None:
        self._order_number += 1
        order, total = self._order_number, f"{self._random.randrange(100_000) / 100:.2f}"
        self._insert("orders", id=order, customer_id=self._customer(), total=total)
        for line in range(1, self._random.randint(2, 4)):
            self._insert(
                *("order_items",), order_id=order, line=line, product_id=1, quantity=1, price=total
            )

    def _register(self) -> None:
        """Insert a row whose key the target generates: it must be past those of the old side."""
        email = f"new{self._number}@example.org"
        self._insert("customers", email=email, name="Zoë Ñúñez", newsletter=1)

    def _edit(self) -> None:
        self._connection.execute(
            "UPDATE customers SET balance = balance + 1 WHERE id = %s", (self._customer(),)
        )

    def _ship(self) -> None:
        self._connection.execute(
            "UPDATE orders SET state = 'sent' WHERE id = %s",
            (self._order_number - self._random.randrange(100),),
        )

    def _insert(self, table: str, **values: object) -> None:
        statement = sql.SQL("INSERT INTO {} ({}) VALUES ({})").format(
            sql.Identifier(table),
            sql.SQL(", ").join(map(sql.Identifier, values)),
            sql.SQL(", ").join(sql.Placeholder() * len(values)),
        )
        self._connection.execute(statement, list(values.values()))
        self._inserted.append(table)

    def _customer(self) -> int:
        return self._random.randint(1, self._customers)

    def _value(self, query: str) -> int:
        (value,) = self._connection.execute(query.encode()).fetchone() or (None,)
        return int(value or 0)
