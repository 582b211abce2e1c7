"""
The shop's transactions, one method a kind, and its schema migration.

Each kind of transaction tests a case that replication can get wrong: a key that changes, two rows
that swap a unique value, a row that is deleted and inserted again under its key, an update of one
of several equal rows.
"""

from __future__ import annotations

from collections.abc import Callable
from random import Random
from typing import Any, TypeAlias

import pymysql

from engine.demo.rows import FIRST_ORDER, NOTES, PAGES, STREETS

__all__ = ["SCHEMA_CHANGES", "Workload"]

Transaction: TypeAlias = Callable[[], None]

#: The migration: it adds a column in the middle, renames, widens and drops columns, and creates a
#: table.
SCHEMA_CHANGES = (
    "ALTER TABLE orders ADD channel varchar(12) DEFAULT 'shop' AFTER state",
    "ALTER TABLE customers RENAME COLUMN notes TO remarks",
    "ALTER TABLE order_items MODIFY COLUMN quantity int unsigned NOT NULL",
    "ALTER TABLE customers DROP COLUMN fax",
    "CREATE TABLE complaints (id SERIAL, order_id bigint unsigned)",
    "ALTER TABLE complaints ADD COLUMN text varchar(200) CHARACTER SET utf8mb4",
)


class Workload:
    """Runs the shop's transactions on one connection. The same seed gives the same transactions.

    ``counts`` is the number of committed transactions by kind.
    """

    def __init__(self, connection: pymysql.Connection[Any], seed: int) -> None:
        self._connection = connection
        self._cursor = connection.cursor()
        self._random = Random(seed)
        self._number = self._value("SELECT max(number) FROM ledger")
        self._customers = self._value("SELECT max(id) FROM customers")
        self._products = self._value("SELECT max(id) FROM products")
        self._orders = self._value("SELECT max(id) FROM orders")
        self._notes = "notes"
        self._migrated = False
        self.counts: dict[str, int] = {}
        self._kinds: dict[Transaction, int] = {
            self._order: 30,
            self._ship: 15,
            self._edit_customer: 10,
            self._count_stock: 8,
            self._view_page: 8,
            self._forget_view: 4,
            self._correct_view: 3,
            self._move_address: 4,
            self._rename_coupon: 4,
            self._renumber_payment: 3,
            self._reissue_coupon: 2,
            self._swap_slots: 4,
            self._cancel_order: 3,
            self._reprice: 1,
            self._change_mind: 1,
        }

    def next(self) -> None:
        """Run and commit one transaction of a random kind, with its row in ``ledger``."""
        (kind,) = self._random.choices(list(self._kinds), list(self._kinds.values()))
        name = kind.__name__.lstrip("_")
        self._cursor.execute("BEGIN")
        kind()
        number = self._number + 1
        self._do("INSERT INTO ledger (number, kind) VALUES (%s, %s)", number, name)
        self._connection.commit()
        self._number = number
        self.counts[name] = self.counts.get(name, 0) + 1

    def migrate(self) -> None:
        """Run the schema changes, with a transaction after each. Later transactions use them."""
        for statement in SCHEMA_CHANGES:
            self._cursor.execute(statement)
            if "RENAME" in statement:
                self._notes = "remarks"
            self.next()
        self._migrated = True
        self._kinds[self._complain] = 5

    # -- inserts -----------------------------------------------------------------------------------

    def _order(self) -> None:
        self._orders += 1
        self._do(
            "INSERT INTO orders (id, customer_id, total, remark) VALUES (%s, %s, %s, %s)",
            *(self._orders, self._customer(), self._price(), self._random.choice(NOTES)),
        )
        if self._migrated:
            channel = self._random.choice(("web", "phone", ""))
            self._do("UPDATE orders SET channel = %s WHERE id = %s", channel, self._orders)
        lines = [
            f"({self._orders}, {line}, {self._product()}, {self._random.randint(1, 9)},"
            f" {self._price()}, {self._random.choice((0, 0.05, 1 / 3))})"
            for line in range(1, self._random.randint(2, 5))
        ]
        columns = "order_id, line, product_id, quantity, price, discount"
        self._do(f"INSERT INTO order_items ({columns}) VALUES {', '.join(lines)}")

    def _view_page(self) -> None:
        page = self._random.choice(PAGES).replace("%d", str(self._product()))
        self._do(
            "INSERT INTO page_views VALUES (%s, %s, %s, %s, 0.1), (%s, %s, %s, %s, 0.1)",
            *(self._session(), page, "2024-10-27 02:30:00", 17) * 2,
        )

    def _complain(self) -> None:
        self._do(
            "INSERT INTO complaints (order_id, text) VALUES (%s, %s)",
            *(self._any_order(), "Où est\tmon colis ? 😠\\n"),
        )

    # -- updates -----------------------------------------------------------------------------------

    def _ship(self) -> None:
        self._do(
            "UPDATE orders SET state = %s, shipped = now(3), due = '0000-00-00' WHERE id = %s",
            *(self._random.choice(("paid", "sent")), self._any_order()),
        )

    def _edit_customer(self) -> None:
        self._do(
            f"UPDATE customers SET {self._notes} = %s, newsletter = %s, flags = %s,"
            " balance = balance + %s, last_login = now(6) WHERE id = %s",
            *(self._random.choice(NOTES), self._random.choice((0, 1, 2))),
            *(self._random.getrandbits(12), self._price(), self._customer()),
        )

    def _count_stock(self) -> None:
        self._do(
            "INSERT INTO stock (warehouse, product_id, quantity, counted)"
            " VALUES (%s, %s, %s, now()) ON DUPLICATE KEY UPDATE"
            " quantity = quantity - 1, counted = now()",
            *(self._warehouse(), self._product(), self._random.randint(0, 99)),
        )

    def _correct_view(self) -> None:
        self._do(
            "UPDATE page_views SET milliseconds = %s WHERE session = %s ORDER BY viewed LIMIT 1",
            *(self._random.randrange(65_536), self._session()),
        )

    def _reprice(self) -> None:
        self._do(
            "UPDATE products SET price = price * 1.03, weight = weight * 1.01 WHERE supplier = %s",
            f"Sup-{self._random.randrange(300):05}",
        )

    # -- keys and unique values --------------------------------------------------------------------

    def _move_address(self) -> None:
        """Change part of a composite key, and cp1252 text with it."""
        customer = self._customer()
        self._do(
            "UPDATE IGNORE addresses SET customer_id = %s, street = %s"
            " WHERE customer_id = %s AND kind = 'delivery'",
            *(self._random.randrange(30_000, 8_000_000), self._random.choice(STREETS), customer),
        )

    def _rename_coupon(self) -> None:
        """Change only the case of a text key. To MySQL the key stays the same."""
        self._do(
            "UPDATE IGNORE coupons SET code = IF(BINARY code = upper(code), lower(code),"
            " upper(code)), used = 2 WHERE code >= %s ORDER BY code LIMIT 1",
            self._coupon(),
        )

    def _renumber_payment(self) -> None:
        number = self._random.randbytes(12) + self._random.choice((b"\0\0\0\0", b"\0ab "))
        self._do("UPDATE payments SET id = %s WHERE id >= %s ORDER BY id LIMIT 1", number, number)

    def _swap_slots(self) -> None:
        """Two rows swap the value of a unique column."""
        chosen = "WHERE slot IS NOT NULL AND slot >= %s ORDER BY slot LIMIT 2"
        self._do(
            f"SELECT warehouse, product_id, slot FROM stock {chosen} FOR UPDATE",
            self._random.randrange(1, self._products * 2),
        )
        rows = self._cursor.fetchall()
        if len(rows) < 2:
            return
        (*first, first_slot), (*second, second_slot) = rows
        for slot, key in ((None, first), (first_slot, second), (second_slot, first)):
            where = "WHERE warehouse = %s AND product_id = %s"
            self._do(f"UPDATE stock SET slot = %s {where}", slot, *key)

    def _reissue_coupon(self) -> None:
        """Delete a row and insert another under its key."""
        self._do("SELECT code FROM coupons WHERE code >= %s LIMIT 1", self._coupon())
        for (code,) in self._cursor.fetchall():
            self._do("DELETE FROM coupons WHERE code = %s", code)
            self._do("INSERT INTO coupons (code, percent) VALUES (%s, 10)", code)

    # -- deletes -----------------------------------------------------------------------------------

    def _forget_view(self) -> None:
        """Delete one of several equal rows."""
        self._do("DELETE FROM page_views WHERE session = %s LIMIT 1", self._session())

    def _cancel_order(self) -> None:
        order = self._any_order()
        self._do("DELETE FROM order_items WHERE order_id = %s", order)
        self._do("DELETE FROM orders WHERE id = %s", order)

    def _change_mind(self) -> None:
        """Roll back a change, and go on with a new transaction."""
        self._do("DELETE FROM coupons WHERE code >= %s LIMIT 50", self._coupon())
        self._do("INSERT INTO ledger (number, kind) VALUES (0, 'rolled back')")
        self._connection.rollback()
        self._cursor.execute("BEGIN")

    # -- choices -----------------------------------------------------------------------------------

    def _do(self, statement: str, *values: object) -> None:
        self._cursor.execute(statement, values)

    def _value(self, query: str) -> int:
        self._cursor.execute(query)
        (value,) = self._cursor.fetchone() or (None,)
        return int(value or 0)

    def _customer(self) -> int:
        return self._random.randint(1, self._customers)

    def _product(self) -> int:
        return self._random.randint(1, self._products)

    def _any_order(self) -> int:
        return self._random.randint(FIRST_ORDER, self._orders)

    def _warehouse(self) -> str:
        return self._random.choice(("BER", "KRK", "LYON", "OSLO", "RIGA"))

    def _session(self) -> str:
        return f"s{self._random.randrange(997):07}"

    def _coupon(self) -> str:
        word = self._random.choice(("spring", "summer", "x", "Été"))
        return f"{word}-{self._random.randrange(9999):05}"

    def _price(self) -> str:
        return f"{self._random.randrange(100_000) / 100:.2f}"
