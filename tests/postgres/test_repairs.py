"""The keys of rows to repair, which are values of rows, in the target."""

from __future__ import annotations

import psycopg
import pytest

from engine.errors import ApplyError
from engine.recovery import RepairKeys
from engine.schema import TableId
from tests.support.targets import Target

FAILING_DELETE = """
CREATE FUNCTION fail() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE 'no'; END $$;
CREATE TRIGGER fail BEFORE DELETE ON tailrace.repair_key FOR EACH ROW EXECUTE FUNCTION fail();
ALTER TABLE tailrace.repair_key ENABLE ALWAYS TRIGGER fail"""


def test_a_cancelled_repair_leaves_no_keys(shared: Target) -> None:
    """GIVEN a cancellation that cannot remove the keys THEN the command still waits."""
    keys = {TableId("shop", "t"): RepairKeys((("secret",),))}

    async def cancel(id: int) -> bool:
        async with shared.sink.command_client() as client:
            return await client.cancel(id, "cancelled")

    with psycopg.connect(shared.url, autocommit=True) as there:

        def stored() -> list[tuple[int, bool]]:
            return there.execute(
                "SELECT (SELECT count(*) FROM tailrace.repair_key), done_at IS NULL"
                " FROM tailrace.command"
            ).fetchall()

        id = shared.run(shared.sink.submit_repair("{}", "ann", keys))
        there.execute(FAILING_DELETE)
        with pytest.raises(ApplyError):
            shared.run(cancel(id))
        assert stored() == [(1, True)]
        there.execute("DROP FUNCTION fail CASCADE")
        assert shared.run(cancel(id))
        assert not shared.run(cancel(id))
        assert stored() == [(0, False)]
