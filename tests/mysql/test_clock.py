"""
The difference of two clocks.
"""

from __future__ import annotations

import pytest

from engine.databases.mysql.connect import connect
from sources.mysql.clock import ServerClock, difference
from sources.mysql.settings import MySQLSettings
from tests.support.servers import AnyServer


@pytest.mark.parametrize(
    ("server", "sent", "received", "unit", "expected"),
    [
        (100.05, 100.0, 100.1, 1e-6, 0.0),
        (100.0, 100.0, 100.0, 1e-6, 0.0),
        (160.05, 100.0, 100.1, 0.0, 60.0),
        (40.05, 100.0, 100.1, 0.0, -60.0),
        # A slow round trip hides a small difference, and a large one stays.
        (101.0, 100.0, 102.0, 1e-6, 0.0),
        (105.0, 100.0, 102.0, 0.0, 4.0),
        # A server without fractions of seconds shows the last whole one.
        (100.0, 100.9, 100.95, 1.0, 0.0),
        (160.0, 100.5, 100.5, 1.0, 60.0),
    ],
)
def test_the_difference_of_two_clocks(
    server: float, sent: float, received: float, unit: float, expected: float
) -> None:
    assert difference(server, sent, received, unit) == pytest.approx(expected)


def test_a_server_on_this_machine_has_the_same_clock(mysql_family: AnyServer) -> None:
    clock = ServerClock()
    assert clock.ahead_seconds is None
    session = connect(MySQLSettings(url=mysql_family.url))
    clock.compare(session)
    session.close()
    assert clock.ahead_seconds == 0.0
