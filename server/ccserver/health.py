"""Whether the database is fit to serve: the right role, settings that keep what was acknowledged, the right schema."""

import logging

from ccserver import migrate
from ccserver.errors import KeysLackingError, NotDurableError, WrongRoleError
from ccserver.keys import ServerKeys
from ccserver.queries import evidence_logs, server
from ccserver.scope import Database

_log = logging.getLogger("ccserver")


async def check_database(database: Database, *, running: bool = False) -> None:
    """Refuse an unfit database: WrongRoleError, NotDurableError, or one of the MigrationErrors.

    A server that is `running` already takes a schema that the next release has migrated.
    """
    async with database.bare() as conn:
        role, settings, ledger = await server.role(conn), await server.settings(conn), await server.ledger(conn)
    if role.is_superuser or role.bypasses_row_security or role.owns_tables:
        raise WrongRoleError(
            f"The database role {role.name} owns tables, is a superuser or has BYPASSRLS, so row security would not"
            " bind it: connect as cc_server, which `ccserver db roles` makes."
        )
    off = [name for name in ("fsync", "full_page_writes", "synchronous_commit") if settings[name] == "off"]
    if off and settings["cc.test_database"] != "on":
        raise NotDurableError(f"The database has {', '.join(off)} off and may lose what it acknowledged: set it to on.")
    if off:
        _log.warning("the database says that it is for tests: %s off", ", ".join(off))
    migrate.check(ledger, running=running)


async def check_keys(database: Database, keys: ServerKeys) -> None:
    """Refuse keys that cannot make the stored receipts again: KeysLackingError names those that are not there."""
    async with database.platform() as scope:
        signed = await evidence_logs.witnesses(scope)
    lacking = sorted(set(signed) - set(keys.witnesses))
    if lacking:
        raise KeysLackingError(
            f"Stored receipts are by {', '.join(lacking)[:200]}, which the key file lacks: it is an old copy or another"
            " server's. Put back the newest copy of the key file."
        )
