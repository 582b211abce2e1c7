"""
The unit of config/deploy under a real systemd: start, reload, watchdog, stop.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import psycopg
import pytest

from engine.demo.writer import ShopWriter
from tests.support.engine_process import write_config
from tests.support.private_systemd import PrivateSystemd, missing
from tests.support.servers import AnyServer, connect_mysql
from tests.support.shops import Shop, assert_mirrored, catch_up
from tests.support.waiting import wait_until

ROOT = Path(__file__).parents[2]
PIPELINES = "/etc/tailrace/pipelines"
#: What differs from the installation of docs/deploy.md: the interpreter, and a shorter watchdog.
DROP_IN = """
[Unit]
Wants=
After=
[Service]
Environment=PYTHONPATH=/opt/checkout:/opt/packages LD_LIBRARY_PATH=/opt/python/lib
ExecStart=
ExecStart=/opt/python/bin/python3 -P -m engine.cli run /etc/tailrace/pipelines
WatchdogSec=8
LoadCredential=shop-source:/etc/tailrace/secrets/shop-source
"""
SECRET = "s3cret-of-the-source"

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(300),
    pytest.mark.skipif(bool(missing()), reason=missing() or "-"),
]


@pytest.fixture
def systemd(tmp_path: Path) -> Iterator[PrivateSystemd]:
    """systemd with the unit and its credential, before the first start."""
    folder = tmp_path / "systemd"
    folder.mkdir()
    with PrivateSystemd(folder) as systemd:
        units = systemd.path("/etc/systemd/system")
        unit = (ROOT / "config" / "deploy" / "tailrace.service").read_text(encoding="utf-8")
        (units / "tailrace.service").write_text(unit)
        (units / "tailrace.service.d").mkdir()
        (units / "tailrace.service.d" / "test.conf").write_text(DROP_IN)
        systemd.path(PIPELINES).mkdir(parents=True)
        secrets = systemd.path("/etc/tailrace/secrets")
        secrets.mkdir(mode=0o700)
        (secrets / "shop-source").write_text(SECRET)
        systemd.run("systemctl", "daemon-reload")
        yield systemd


def source_with_credential(shop: Shop) -> str:
    """The URL of the shop for a user whose password is the credential of the unit."""
    with connect_mysql(shop.server) as connection, connection.cursor() as cursor:
        cursor.execute(f"CREATE USER {shop.database} IDENTIFIED BY '{SECRET}'")
        cursor.execute(f"GRANT ALL ON *.* TO {shop.database}")
    password = "${file:/run/credentials/tailrace.service/shop-source}"
    address = shop.url.rpartition("@")[2]
    return f"mysql://{shop.database}:{password}@{address}"


def has_ledger(target: str, shop: Shop) -> bool:
    """Whether the target has a transaction of the shop's writer."""
    with psycopg.connect(target) as connection:
        try:
            found = connection.execute(f'SELECT 1 FROM "{shop.database}".ledger LIMIT 1')
        except psycopg.errors.UndefinedTable:
            return False
        return found.fetchone() is not None


def test_the_unit_under_systemd(
    mysql: AnyServer,
    new_shop: Callable[[AnyServer, int], Shop],
    target_database: str,
    systemd: PrivateSystemd,
    tmp_path: Path,
) -> None:
    first, second = new_shop(mysql, 500), new_shop(mysql, 500)
    pipelines = systemd.path(PIPELINES)
    url = source_with_credential(first)
    write_config(pipelines, url, target_database, first.tables, name="first")
    with ShopWriter(first.url, 100) as writer, ShopWriter(second.url, 50) as other:
        systemd.run("systemctl", "start", "tailrace")
        assert systemd.property("tailrace", "ActiveState") == "active", systemd.run(
            "journalctl", "--no-pager", "-u", "tailrace"
        )
        wait_until(lambda: has_ledger(target_database, first), what="changes of the first shop")
        processes = systemd.run("ps", "-eo", "user,args")
        assert SECRET not in processes
        assert {it.split()[0] for it in processes.splitlines() if "engine.cli" in it} == {
            "tailrace"
        }
        write_config(pipelines, second.url, target_database, second.tables, name="second")
        systemd.run("systemctl", "reload", "tailrace")
        wait_until(lambda: has_ledger(target_database, second), what="changes of the second shop")
        wait_until(
            lambda: "2 running." in systemd.property("tailrace", "StatusText"), what="the state"
        )
        # A supervisor that hangs is killed by the watchdog and started again, with its engines.
        hung = systemd.property("tailrace", "MainPID")
        systemd.run("kill", "-STOP", hung)
        wait_until(
            lambda: systemd.property("tailrace", "MainPID") not in (hung, "0"),
            timeout=60,
            what="a new supervisor",
        )
        wait_until(
            lambda: "2 running." in systemd.property("tailrace", "StatusText"), what="the state"
        )
        counts, others = writer.stop(), other.stop()
    systemd.run("systemctl", "stop", "tailrace")
    assert systemd.property("tailrace", "ActiveState") == "inactive"
    assert systemd.property("tailrace", "Result") == "success"
    log = systemd.run("journalctl", "--no-pager", "-u", "tailrace")
    assert SECRET not in log
    for shop, name, number in ((first, "first", counts), (second, "second", others)):
        catch_up(write_config(tmp_path, shop.url, target_database, shop.tables, name=name))
        assert_mirrored(shop, target_database, number.transactions)


def test_a_mistake_of_the_server_is_not_tried_again(systemd: PrivateSystemd) -> None:
    supervisor = systemd.path(PIPELINES) / "supervisor.toml"
    supervisor.write_text("[api]\nlisten = 1\n")
    systemd.run("systemctl", "start", "tailrace")
    assert systemd.property("tailrace", "ActiveState") == "failed"
    assert systemd.property("tailrace", "ExecMainStatus") == "2"
    assert systemd.property("tailrace", "NRestarts") == "0"
