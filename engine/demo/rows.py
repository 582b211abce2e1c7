"""
The shop's rows. Each table has a function that makes its n-th row with a random generator.

The rows hold values that replication tools get wrong. All of them occur in real databases: text
with tabs and line ends, floats that a short decimal text does not hold, times beyond 24 hours, and
binary keys that end with zeros.
"""

from __future__ import annotations

import hashlib
import struct
from datetime import datetime, timedelta
from random import Random
from typing import TypeAlias

__all__ = [
    "FIRST_ORDER",
    "NOTES",
    "PAGES",
    "STREETS",
    "Row",
    "make_address",
    "make_category",
    "make_coupon",
    "make_customer",
    "make_delivery",
    "make_ledger_entry",
    "make_order",
    "make_order_item",
    "make_page_view",
    "make_payment",
    "make_product",
    "make_stock",
    "make_supplier",
]

Row: TypeAlias = tuple[object, ...]

#: Above the largest signed 64-bit number.
FIRST_ORDER = 2**63 + 1000
WAREHOUSES = ("BER", "KRK", "LYON", "OSLO")
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


def _timestamp(number: int, step_seconds: int = 977) -> str:
    """A date and time of the shop's history, without a time zone. It depends on ``number``."""
    return str(datetime(2004, 3, 1, 8) + timedelta(seconds=number * step_seconds % 600_000_000))


def make_customer(random: Random, n: int) -> Row:
    """A customer: zero dates, a flag that holds 2, and text with tabs and line ends."""
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
        _timestamp(n),
        None if n % 7 == 0 else f"{_timestamp(n * 3)}.{random.randrange(10**6):06}",
    )


def make_address(random: Random, n: int) -> Row:
    """An address: text in cp1252, and a key of two columns."""
    kind = "billing" if n % 2 else "delivery"
    house = random.randrange(300)
    return (n // 2 + 1, kind, random.choice(STREETS), house, f"{n % 99_999:05}", "Köln", None)


def make_supplier(random: Random, n: int) -> Row:
    """A supplier: floats that a short decimal text does not hold, and -0.0."""
    rating = random.choice((None, 0.1, -0.0, 3.3333, 1e-7))
    return (f"Sup-{n:05}", f"{random.choice(LAST_NAMES)} & Söhne", rating, random.random() * 1e9)


def make_category(random: Random, n: int) -> Row:
    """A category: marks that differ only in case and trailing blanks."""
    return (n + 1, None if n < 10 else n // 10, f"Category {n}", random.choice(("", "A", "a ")))


def make_product(random: Random, n: int) -> Row:
    """A product: JSON, long decimals, and binary values that end with zeros."""
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


def make_stock(random: Random, n: int) -> Row:
    """The stock of a product in a warehouse: a key of text and number, and a unique slot."""
    warehouse = WAREHOUSES[n % len(WAREHOUSES)]
    return (warehouse, n // len(WAREHOUSES) + 1, random.randint(-5, 5000), n + 1, _timestamp(n))


def make_order(random: Random, n: int) -> Row:
    """An order: an id above 2^63, a state that is not in its ENUM, and zero dates."""
    state = random.choice(("new", "paid", "sent", "returned", "unknown"))  # not in the ENUM
    return (
        FIRST_ORDER + n,
        random.randrange(1, 20_000),
        state,
        f"{random.randrange(10**10)}.{random.randrange(10**8):08}",
        _timestamp(n, 13_000),
        random.choice(("0000-00-00", "2019-06-30", "2031-01-01")),
        random.choice((None, "0000-00-00 00:00:00", f"{_timestamp(n, 13_100)}.250")),
        random.choice(NOTES),
    )


def make_order_item(random: Random, n: int) -> Row:
    """A line of an order: a key of two columns, and floats."""
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


def make_payment(random: Random, n: int) -> Row:
    """A payment: a binary key that may end with zeros, and a DECIMAL(65,30)."""
    number = hashlib.md5(b"%d" % n, usedforsecurity=False).digest()
    amount = f"{random.randrange(10**30)}.{random.randrange(10**30):030}"
    return (
        number[:13] + b"\0\0\0" if n % 10 == 0 else number,
        FIRST_ORDER + n,
        random.choice(("card", "cash,voucher", "card,cash,voucher")),
        amount if n % 2 else f"-{amount}",
        f"{_timestamp(n, 13_050)}.{random.randrange(1000):03}",
    )


def make_delivery(random: Random, n: int) -> Row:
    """A delivery: a TIME beyond 24 hours or below zero, and a POINT."""
    hours = random.choice((0, 7, 36, 117, 838))
    duration = f"{random.choice(('', '-'))}{hours}:{random.randrange(60):02}:30.25"
    point = struct.pack("<IBIdd", 0, 1, 1, random.uniform(-180, 180), random.uniform(-90, 90))
    carrier = ("Post", "DHL-x", "ups", "Żabka")[n % 4]
    return (carrier, f"{n // 4:03}", duration, f"{n % 24}:15:00", point, random.choice(NOTES))


def make_coupon(random: Random, n: int) -> Row:
    """A coupon: a text key, which MySQL compares without case."""
    word = random.choice(("Summer", "SUMMER", "spring", "Été", "x"))
    return (
        f"{word}-{n:05}",
        random.randrange(1, 91),
        random.choice(BIRTHDAYS),
        random.getrandbits(1),
    )


def make_page_view(random: Random, n: int) -> Row:
    """A page view: its table has no key, and each view is stored three times."""
    same = n - n % 3
    page = PAGES[same % len(PAGES)].replace("%d", str(same % 5000))
    return (f"s{same % 997:07}", page, _timestamp(same, 31), same % 4000, same % 100 / 8 + 0.1)


def make_ledger_entry(random: Random, n: int) -> Row:
    """A row of the ledger. The ledger starts empty; this row gives the number of its columns."""
    return (n + 1, "opening", _timestamp(n))
