"""
The checks of a server and its tables before they are followed, for ``tailrace check``.

``server`` checks the server's settings and the user's rights, ``protection`` the connection,
``tables`` the tables, ``storage`` their engines and partitions, ``samples`` and ``text`` a sample
of their values, and ``carried`` lists what a mirror does not have. A check is a
function that yields findings. A finding that is not ``ok`` says what to type. Nothing is changed on
the server.
"""

from __future__ import annotations

from typing import Any

import msgspec
from pymysql.connections import Connection

from engine.contract import Finding
from engine.databases.mysql.connect import query
from sources.mysql.preflight.carried import CARRIED_CHECKS
from sources.mysql.preflight.context import Context, read_context
from sources.mysql.preflight.grants import account_name
from sources.mysql.preflight.protection import PROTECTION_CHECKS
from sources.mysql.preflight.samples import SAMPLE_CHECKS
from sources.mysql.preflight.server import RIGHTS_CHECKS, SETTINGS_CHECKS
from sources.mysql.preflight.storage import STORAGE_CHECKS
from sources.mysql.preflight.tables import TABLE_CHECKS
from sources.mysql.preflight.text import TEXT_CHECKS
from sources.mysql.server_info import ServerInfo
from sources.mysql.settings import MySQLSettings
from sources.mysql.unlogged import unlogged

__all__ = ["preflight"]


def preflight(session: Connection[Any], info: ServerInfo, settings: MySQLSettings) -> list[Finding]:
    """All findings, in the order in which to fix them.

    Raises SourceLost if the connection breaks.
    """
    context = read_context(session, info, settings)
    checks = (*SETTINGS_CHECKS, *PROTECTION_CHECKS)
    findings = [finding for check in checks for finding in check(context)]
    if context.logs:
        findings += _log_access(context)
    checks = (*TABLE_CHECKS, *STORAGE_CHECKS, *SAMPLE_CHECKS, *TEXT_CHECKS, *CARRIED_CHECKS)
    findings += (finding for check in checks for finding in check(context))
    ((account,),) = query(session, "SELECT CURRENT_USER()")
    return [_to(account, finding) for finding in findings]


def _to(account: str, finding: Finding) -> Finding:
    """The finding with the user's account in its GRANT."""
    action = finding.action.replace("<user>", account_name(account))
    return msgspec.structs.replace(finding, action=action)


def _log_access(context: Context) -> list[Finding]:
    """Whether the user may read the log, and then, whether the log holds all changes."""
    findings = [finding for check in RIGHTS_CHECKS for finding in check(context)]
    if not any(finding.level == "error" for finding in findings):
        schemas = {table.id.schema for table in context.tables}
        findings += unlogged(context.session, context.info, schemas)
    return findings
