"""How the database reads for the rest of a transaction."""

from ccserver.scope import PartnerScope, SiteScope


async def read_in_order(scope: PartnerScope | SiteScope) -> None:
    """Have lists read by the index that gives their order, and stop at the page's end.

    The planner expects row security to leave one row, and would rather read a tenant's whole history and sort it.
    """
    await scope.conn.execute(
        "SELECT set_config('enable_sort', 'off', true), set_config('enable_bitmapscan', 'off', true)"
    )
