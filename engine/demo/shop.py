"""
The schema of the demo's legacy shop database, and the function that loads it.

The shop has twelve tables and a ledger, which the shop's writer fills. The tables have the oddities
of databases that grew over twenty years: zero dates, keys above 2^63, cp1252 text in columns
declared latin1, tables without a key, a boolean that holds 2. They load on MySQL and MariaDB. The
same seed gives the same rows.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable
from dataclasses import dataclass
from random import Random
from typing import Any
from urllib.parse import unquote, urlsplit

import pymysql

from engine.demo.rows import (
    Row,
    make_address,
    make_category,
    make_coupon,
    make_customer,
    make_delivery,
    make_ledger_entry,
    make_order,
    make_order_item,
    make_page_view,
    make_payment,
    make_product,
    make_stock,
    make_supplier,
)

__all__ = [
    "SHOP",
    "ShopTable",
    "application_of",
    "connect",
    "load_shop",
    "remove_application",
    "row_counts",
]

STATEMENT_TIMEOUT_SECONDS = 60
#: The session of the shop's software: no strict mode, so that zero dates can be written.
LEGACY_SESSION = (
    "SET sql_mode = 'NO_ENGINE_SUBSTITUTION', time_zone = '+00:00', lock_wait_timeout = 60"
)


@dataclass(frozen=True)
class ShopTable:
    """A table of the shop: its part of all rows, its columns and keys, and ``make_row``, which
    makes its n-th row.
    """

    name: str
    share: float
    make_row: Callable[[Random, int], Row]
    definition: str
    options: str = "DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_general_ci"

    @property
    def create(self) -> str:
        """The statement that creates the table."""
        return f"CREATE TABLE {self.name} ({self.definition}) ENGINE=InnoDB {self.options}"


SHOP = (
    ShopTable(
        "customers",
        0.1,
        make_customer,
        """id mediumint unsigned NOT NULL AUTO_INCREMENT,
        email varchar(120) NOT NULL,
        title enum('Mr','Mrs','Dr') DEFAULT NULL,
        name varchar(80) NOT NULL,
        interests set('tools','garden','books','toys','music') NOT NULL DEFAULT '',
        newsletter tinyint(1) NOT NULL DEFAULT 0,
        born date NOT NULL DEFAULT '0000-00-00',
        since year DEFAULT NULL,
        flags bit(12) NOT NULL DEFAULT b'0',
        balance decimal(12,2) NOT NULL DEFAULT 0,
        fax char(20) DEFAULT NULL,
        notes text,
        registered timestamp NOT NULL DEFAULT CURRENT_TIMESTAMP,
        last_login datetime(6) DEFAULT NULL,
        PRIMARY KEY (id), UNIQUE KEY email (email)""",
    ),
    ShopTable(
        "addresses",
        0.1,
        make_address,
        """customer_id int(11) NOT NULL,
        kind enum('billing','delivery') NOT NULL,
        street varchar(100) NOT NULL DEFAULT '',
        house smallint(5) unsigned zerofill DEFAULT NULL,
        postcode char(10) NOT NULL,
        city varchar(60) DEFAULT 'Köln',
        hint mediumtext,
        PRIMARY KEY (customer_id, kind), KEY postcode (postcode)""",
        "DEFAULT CHARSET=latin1 COLLATE=latin1_swedish_ci",
    ),
    ShopTable(
        "suppliers",
        0.0015,
        make_supplier,
        """code varchar(20) NOT NULL,
        name varchar(60) NOT NULL,
        rating float DEFAULT NULL,
        turnover double NOT NULL,
        PRIMARY KEY (code)""",
        "DEFAULT CHARSET=latin1 COLLATE=latin1_german1_ci",
    ),
    ShopTable(
        "categories",
        0.001,
        make_category,
        """id smallint NOT NULL,
        parent smallint DEFAULT NULL,
        name varchar(50) NOT NULL,
        mark char(2) NOT NULL,
        PRIMARY KEY (id), KEY parent (parent)""",
    ),
    ShopTable(
        "products",
        0.025,
        make_product,
        """id int unsigned NOT NULL,
        sku char(12) NOT NULL,
        category_id smallint NOT NULL,
        supplier varchar(20) CHARACTER SET latin1 DEFAULT NULL,
        price decimal(20,8) NOT NULL,
        barcode binary(6) NOT NULL,
        picture blob,
        weight float DEFAULT NULL,
        attributes json DEFAULT NULL,
        discontinued bit(1) DEFAULT NULL,
        PRIMARY KEY (id), UNIQUE KEY sku (sku), KEY supplier (supplier)""",
    ),
    ShopTable(
        "stock",
        0.05,
        make_stock,
        """warehouse char(4) NOT NULL,
        product_id int unsigned NOT NULL,
        quantity int NOT NULL DEFAULT 0,
        slot int unsigned DEFAULT NULL,
        counted timestamp NULL DEFAULT NULL,
        PRIMARY KEY (warehouse, product_id), UNIQUE KEY slot (slot)""",
    ),
    ShopTable(
        "orders",
        0.2,
        make_order,
        """id bigint unsigned NOT NULL,
        customer_id mediumint unsigned NOT NULL,
        state enum('new','paid','sent','returned') NOT NULL DEFAULT 'new',
        total decimal(20,8) NOT NULL,
        placed timestamp NOT NULL DEFAULT CURRENT_TIMESTAMP,
        due date NOT NULL DEFAULT '0000-00-00',
        shipped datetime(3) DEFAULT NULL,
        remark text,
        PRIMARY KEY (id), KEY customer (customer_id)""",
    ),
    ShopTable(
        "order_items",
        0.4,
        make_order_item,
        """order_id bigint unsigned NOT NULL,
        line tinyint unsigned NOT NULL,
        product_id int unsigned NOT NULL,
        quantity mediumint unsigned NOT NULL,
        price decimal(10,2) NOT NULL,
        discount float NOT NULL DEFAULT 0,
        PRIMARY KEY (order_id, line)""",
    ),
    ShopTable(
        "payments",
        0.06,
        make_payment,
        """id binary(16) NOT NULL,
        order_id bigint unsigned NOT NULL,
        means set('card','cash','voucher') DEFAULT NULL,
        amount decimal(65,30) NOT NULL,
        paid timestamp(3) NULL DEFAULT NULL,
        PRIMARY KEY (id)""",
    ),
    ShopTable(
        "deliveries",
        0.0075,
        make_delivery,
        """carrier varchar(16) NOT NULL,
        zone char(3) NOT NULL,
        duration time(2) NOT NULL,
        pickup time DEFAULT NULL,
        depot point NOT NULL,
        remark tinytext,
        PRIMARY KEY (carrier, zone)""",
    ),
    ShopTable(
        "coupons",
        0.005,
        make_coupon,
        """code varchar(24) NOT NULL,
        percent tinyint unsigned NOT NULL,
        valid_from date DEFAULT '0000-00-00',
        used tinyint(1) NOT NULL DEFAULT 0,
        PRIMARY KEY (code)""",
    ),
    ShopTable(
        "page_views",
        0.05,
        make_page_view,
        """session char(10) NOT NULL,
        page varchar(100) DEFAULT NULL,
        viewed datetime NOT NULL,
        milliseconds smallint unsigned DEFAULT NULL,
        score float DEFAULT NULL,
        KEY session (session)""",
        "DEFAULT CHARSET=latin1",
    ),
    ShopTable(
        "ledger",
        0.0,
        make_ledger_entry,
        """number bigint unsigned NOT NULL,
        kind varchar(20) NOT NULL,
        written timestamp(6) NOT NULL DEFAULT CURRENT_TIMESTAMP(6)""",
    ),
)


def connect(url: str) -> pymysql.Connection[Any]:
    """Connect with the session settings of the shop's software.

    ``url`` is ``mysql://user:password@host:port/shop``. Without a database in it, none is selected.
    """
    parts = urlsplit(url)
    return pymysql.connect(
        host=parts.hostname or "127.0.0.1",
        port=parts.port or 3306,
        user=unquote(parts.username or "root"),
        password=unquote(parts.password or ""),
        database=parts.path.strip("/") or None,
        charset="utf8mb4",
        init_command=LEGACY_SESSION,
        connect_timeout=STATEMENT_TIMEOUT_SECONDS,
        read_timeout=STATEMENT_TIMEOUT_SECONDS,
        write_timeout=STATEMENT_TIMEOUT_SECONDS,
    )


def load_shop(url: str, rows: int = 200_000, seed: int = 1) -> dict[str, int]:
    """Create the database that ``url`` names, with about ``rows`` rows. It must not exist yet.

    Returns the number of rows of each table.
    """
    server, _, database = url.rpartition("/")
    random = Random(seed)
    counts = {table.name: round(rows * table.share) for table in SHOP}
    with connect(f"{server}/") as connection, connection.cursor() as cursor:
        cursor.execute(f"CREATE DATABASE `{database}` DEFAULT CHARSET=utf8mb4")
        cursor.execute(f"USE `{database}`")
        for table in SHOP:
            cursor.execute(table.create)
            values = [table.make_row(random, number) for number in range(counts[table.name])]
            marks = ", ".join(["%s"] * len(table.make_row(random, 0)))
            cursor.executemany(f"INSERT INTO {table.name} VALUES ({marks})", values)
            connection.commit()
            # The source estimates the rows of a backfill from these statistics.
            cursor.execute(f"ANALYZE NO_WRITE_TO_BINLOG TABLE {table.name}")
    return counts


def application_of(url: str) -> str:
    """Create the account of the shop's software, and return the URL with it. It has all rights on
    the shop, and none to write to a server that is read only.
    """
    server, _, database = url.rpartition("/")
    password = secrets.token_hex(8)
    with connect(f"{server}/") as connection, connection.cursor() as cursor:
        cursor.execute(f"CREATE USER `{database}`@`%` IDENTIFIED BY '{password}'")
        cursor.execute(f"GRANT ALL ON `{database}`.* TO `{database}`@`%`")
    return (
        f"mysql://{database}:{password}@{server.rpartition('/')[2].rpartition('@')[2]}/{database}"
    )


def remove_application(url: str) -> None:
    """Drop the account of the shop's software."""
    server, _, database = url.rpartition("/")
    with connect(f"{server}/") as connection, connection.cursor() as cursor:
        cursor.execute(f"DROP USER IF EXISTS `{database}`@`%`")


def row_counts(url: str) -> dict[str, int]:
    """The number of rows of each table of the shop, by ``count(*)``."""
    with connect(url) as connection, connection.cursor() as cursor:
        cursor.execute(
            "SELECT table_name FROM information_schema.tables WHERE table_schema = database()"
        )
        names = sorted(name for (name,) in cursor.fetchall())
        counts = {}
        for name in names:
            cursor.execute(f"SELECT count(*) FROM `{name}`")
            (counts[name],) = cursor.fetchone() or (0,)
        return counts
