"""
The rights that a configuration needs on its server, for ``tailrace check --grants``.
"""

from __future__ import annotations

from contextlib import closing
from typing import Any

from pymysql.connections import Connection

from engine.databases.mysql.connect import (
    establish,
    has_greeted,
    is_mariadb,
    prepare,
    query,
    version_number,
)
from engine.databases.mysql.identifiers import quote_name
from engine.databases.mysql.settings import address_of
from engine.errors import SourceError, SourceLost
from engine.rights import Grant, Grants, HandoverRights
from sources.mysql.preflight.context import read_context
from sources.mysql.preflight.storage import tables_to_lock
from sources.mysql.releases import release_name
from sources.mysql.rights import rights
from sources.mysql.server_info import read_server_info
from sources.mysql.settings import MySQLSettings
from sources.mysql.unlogged import replicas_log

__all__ = ["account_name", "read_grants"]


def read_grants(settings: MySQLSettings, handover: HandoverRights | None = None) -> Grants:
    """The rights to follow the tables of the configuration, and to cut them over.

    The server names its release before the login, so the user need not exist. If it may see the
    tables, those rights are left out that this server and these tables do not need.
    """
    session = prepare(settings)
    try:
        establish(session)
    except SourceError as error:
        if isinstance(error, SourceLost) or not has_greeted(session):
            raise
        account = f"{address_of(settings).user}@%"
        return _grants(settings, session, account, handover)
    with closing(session):
        info = read_server_info(session)
        context = read_context(session, info, settings)
        ((account,),) = query(session, "SELECT CURRENT_USER()")
        return _grants(
            *(settings, session, account, handover),
            locks=not context.tables or bool(tables_to_lock(context)),
            may_replicate=not replicas_log(context.variables),
        )


def _grants(
    settings: MySQLSettings,
    session: Connection[Any],
    account: str,
    handover: HandoverRights | None,
    *,
    locks: bool = True,
    may_replicate: bool = True,
) -> Grants:
    mariadb, version = is_mariadb(session), version_number(session)
    address, name = address_of(settings), account_name(account)
    tls = "" if address.tls in ("disable", "prefer") else " REQUIRE SSL"
    found = rights(
        *(mariadb, version, settings.tables),
        locks=locks,
        may_replicate=may_replicate,
        handover=handover,
    )
    return Grants(
        f"{release_name(mariadb, version)} at {address.host}:{address.port}",
        f"CREATE USER {name} IDENTIFIED BY '…'{tls};",
        [Grant(f"GRANT {right} TO {name};", reason) for right, reason in found],
    )


def account_name(account: str) -> str:
    """An account such as ``user@host``, which CURRENT_USER() returns, quoted."""
    user, _, host = account.rpartition("@")
    return f"{quote_name(user)}@{quote_name(host)}"
