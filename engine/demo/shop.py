"""
A legacy shop database: twelve tables that grew over twenty years, and a ledger.

The idea: it has what old databases have and new ones do not expect. Zero dates, a key beyond
2^63, text in cp1252 that calls itself latin1, a table without a key, a flag that holds 2. Loads on
MySQL and MariaDB; the same seed gives the same rows.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from random import Random
from typing import Any, TypeAlias
from urllib.parse import unquote, urlsplit

import pymysql

__all__ = ["FIRST_ORDER", "SHOP", "ShopTable", "connect", "load_shop", "row_counts"]

Row: TypeAlias = tuple[object, ...]

#: Order numbers start beyond what a signed 64-bit number holds.
FIRST_ORDER = 2**63 + 1000
WAREHOUSES = ("BER", "KRK", "LYON", "OSLO")
STATEMENT_TIMEOUT_SECONDS = 60
#: As the shop's own software sets it: no strictness, zero dates welcome.
LEGACY_SESSION = (
    "SET sql_mode = 'NO_ENGINE_SUBSTITUTION', time_zone = '+00:00', lock_wait_timeout = 60"
)

FIRST_NAMES = (
    "Ana",
    "Björn",
    "Chloë",
    "Dörte",
    "Eoin",
    "Françoise",
    "Łukasz",
    "Zoë",
    "Иван",
    "美咲",
)
LAST_NAMES = ("O'Neill", "Müller", "Garçon", "Šimek", "Nowak", "Ñúñez", "Smith", "Øster", "d'Arc")
STREETS = (
    "Straße des 17. Juni",
    "Rue de l’Église",  # noqa: RUF001 - cp1252 is the point
    "“Zum Löwen” – Hof 3",  # noqa: RUF001
    "Œuvre-Platz €-Center",
    "Žižkov…",
    "Šumavská ™ 7",
    "Main St.\\Rear",
    "Old\x81Side",
)
NOTES = (
    None,
    "",
    "calls before noon",
    "two\tcolumns\nand two lines",
    "C:\\orders\\2009\\.tmp \\N",
    "likes 🎁 and 👨‍👩‍👧",
    'says "it\'s fine"; 100 % of the time',
    "trailing blanks   ",
)
BIRTHDAYS = ("0000-00-00", "1980-00-00", "1975-02-11", "1999-12-31", "1908-01-05", "2004-02-29")
PAGES = ("/", "/search?q=drill", "/basket", "/p/%d", "/account", "/checkout?step=2")


@dataclass(frozen=True)
class ShopTable:
    """One table: ``share`` of all rows, its ``definition`` and ``row``, which makes the n-th."""

    name: str
    share: float
    row: Callable[[Random, int], Row]
    definition: str
    options: str = "DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_general_ci"

    @property
    def create(self) -> str:
        """The statement that creates it."""
        return f"CREATE TABLE {self.name} ({self.definition}) ENGINE=InnoDB {self.options}"


def moment(number: int, step_seconds: int = 977) -> str:
    """A moment of the shop's history, without a zone; equal numbers, equal moments."""
    return str(datetime(2004, 3, 1, 8) + timedelta(seconds=number * step_seconds % 600_000_000))


def _customer(random: Random, n: int) -> Row:
    first, last = random.choice(FIRST_NAMES), random.choice(LAST_NAMES)
    return (
        n + 1,
        f"customer{n}@Example.org",
        random.choice(("Mr", "Mrs", "Dr", None)),
        f"{first} {last}",
        random.choice(("", "tools", "garden,music", "tools,books,toys")),
        random.choice((0, 1, 1, 2, -1)),
        random.choice(BIRTHDAYS),
        random.choice((None, 0, 1998, 2011, 2024)),
        random.getrandbits(12),
        f"{random.randint(-99_999, 999_999) / 100:.2f}",
        random.choice((None, "+49 30 1234   ")),
        random.choice(NOTES),
        moment(n),
        None if n % 7 == 0 else f"{moment(n * 3)}.{random.randrange(10**6):06}",
    )


def _address(random: Random, n: int) -> Row:
    kind = "billing" if n % 2 else "delivery"
    house = random.randrange(300)
    return (n // 2 + 1, kind, random.choice(STREETS), house, f"{n % 99_999:05}", "Köln", None)


def _supplier(random: Random, n: int) -> Row:
    rating = random.choice((None, 0.1, -0.0, 3.3333, 1e-7))
    return (f"Sup-{n:05}", f"{random.choice(LAST_NAMES)} & Söhne", rating, random.random() * 1e9)


def _category(random: Random, n: int) -> Row:
    return (n + 1, None if n < 10 else n // 10, f"Category {n}", random.choice(("", "A", "a ")))


def _product(random: Random, n: int) -> Row:
    attributes = (
        f'{{"colour": "{random.choice(("red", "grün"))}", "sizes": [{n % 9}, 2.50], "old": null}}'
    )
    return (
        n + 1,
        f"SKU-{n:07}",
        n % 200 + 1,
        f"Sup-{n % 300:05}",
        f"{random.randrange(10**12)}.{random.randrange(10**8):08}",
        struct.pack(">I", n) + b"\0\0",
        random.randbytes(n % 40),
        random.random() * 50,
        attributes if n % 5 else None,
        random.choice((None, 0, 1)),
    )


def _stock(random: Random, n: int) -> Row:
    warehouse = WAREHOUSES[n % len(WAREHOUSES)]
    return (warehouse, n // len(WAREHOUSES) + 1, random.randint(-5, 5000), n + 1, moment(n))


def _order(random: Random, n: int) -> Row:
    state = random.choice(("new", "paid", "sent", "returned", "unknown"))  # unknown is no member
    return (
        FIRST_ORDER + n,
        random.randrange(1, 20_000),
        state,
        f"{random.randrange(10**10)}.{random.randrange(10**8):08}",
        moment(n, 13_000),
        random.choice(("0000-00-00", "2019-06-30", "2031-01-01")),
        random.choice((None, "0000-00-00 00:00:00", f"{moment(n, 13_100)}.250")),
        random.choice(NOTES),
    )


def _order_item(random: Random, n: int) -> Row:
    price = f"{random.randrange(10_000_000) / 100:.2f}"
    discount = random.choice((0, 0.05, 0.1, 1 / 3))
    return (
        FIRST_ORDER + n // 2,
        n % 2 + 1,
        n * 7 % 5000 + 1,
        random.randint(1, 99),
        price,
        discount,
    )


def _payment(random: Random, n: int) -> Row:
    number = hashlib.md5(b"%d" % n, usedforsecurity=False).digest()
    amount = f"{random.randrange(10**30)}.{random.randrange(10**30):030}"
    return (
        number[:13] + b"\0\0\0" if n % 10 == 0 else number,
        FIRST_ORDER + n,
        random.choice(("card", "cash,voucher", "card,cash,voucher")),
        amount if n % 2 else f"-{amount}",
        f"{moment(n, 13_050)}.{random.randrange(1000):03}",
    )


def _delivery(random: Random, n: int) -> Row:
    hours = random.choice((0, 7, 36, 117, 838))
    duration = f"{random.choice(('', '-'))}{hours}:{random.randrange(60):02}:30.25"
    point = struct.pack("<IBIdd", 0, 1, 1, random.uniform(-180, 180), random.uniform(-90, 90))
    carrier = ("Post", "DHL-x", "ups", "Żabka")[n % 4]
    return (carrier, f"{n // 4:03}", duration, f"{n % 24}:15:00", point, random.choice(NOTES))


def _coupon(random: Random, n: int) -> Row:
    word = random.choice(("Summer", "SUMMER", "spring", "Été", "x"))
    return (
        f"{word}-{n:05}",
        random.randrange(1, 91),
        random.choice(BIRTHDAYS),
        random.getrandbits(1),
    )


def _page_view(random: Random, n: int) -> Row:
    same = n - n % 3  # every third view is stored three times
    page = PAGES[same % len(PAGES)].replace("%d", str(same % 5000))
    return (f"s{same % 997:07}", page, moment(same, 31), same % 4000, same % 100 / 8 + 0.1)


SHOP = (
    ShopTable(
        "customers",
        0.1,
        _customer,
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
        _address,
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
        _supplier,
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
        _category,
        """id smallint NOT NULL,
        parent smallint DEFAULT NULL,
        name varchar(50) NOT NULL,
        mark char(2) NOT NULL,
        PRIMARY KEY (id), KEY parent (parent)""",
    ),
    ShopTable(
        "products",
        0.025,
        _product,
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
        _stock,
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
        _order,
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
        _order_item,
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
        _payment,
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
        _delivery,
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
        _coupon,
        """code varchar(24) NOT NULL,
        percent tinyint unsigned NOT NULL,
        valid_from date DEFAULT '0000-00-00',
        used tinyint(1) NOT NULL DEFAULT 0,
        PRIMARY KEY (code)""",
    ),
    ShopTable(
        "page_views",
        0.05,
        _page_view,
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
        lambda random, n: (n, "", moment(n)),
        """number bigint unsigned NOT NULL,
        kind varchar(20) NOT NULL,
        written timestamp(6) NOT NULL DEFAULT CURRENT_TIMESTAMP(6)""",
    ),
)


def connect(url: str) -> pymysql.Connection[Any]:
    """Connect as the shop's own software does; ``url`` names the database, if there is one yet:
    ``mysql://user:password@host:port/shop``.
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
    """Create the database that ``url`` names, with about ``rows`` rows; returns rows by table.

    The database must not exist.
    """
    server, _, database = url.rpartition("/")
    random = Random(seed)
    counts = {table.name: int(rows * table.share) for table in SHOP}
    with connect(f"{server}/") as connection, connection.cursor() as cursor:
        cursor.execute(f"CREATE DATABASE `{database}` DEFAULT CHARSET=utf8mb4")
        cursor.execute(f"USE `{database}`")
        for table in SHOP:
            cursor.execute(table.create)
            values = [table.row(random, number) for number in range(counts[table.name])]
            marks = ", ".join(["%s"] * len(table.row(random, 0)))
            cursor.executemany(f"INSERT INTO {table.name} VALUES ({marks})", values)
            connection.commit()
            # What the source expects of a snapshot comes from these statistics.
            cursor.execute(f"ANALYZE NO_WRITE_TO_BINLOG TABLE {table.name}")
    return counts


def row_counts(url: str) -> dict[str, int]:
    """The exact number of rows of every table of the shop, by plain SQL."""
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
