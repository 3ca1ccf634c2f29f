"""How the database reads for the rest of a transaction."""

from ccserver.scope import PartnerScope, SiteScope


async def read_in_order(scope: PartnerScope | SiteScope) -> None:
    """Have lists read by the index that gives their order, and stop at the page's end.

    The planner expects row security to leave one row, and would rather read a tenant's whole history and sort it.
    """
    await scope.conn.execute(
        "SELECT set_config('enable_sort', 'off', true), set_config('enable_bitmapscan', 'off', true)"
    )


async def join_by_hash(scope: PartnerScope | SiteScope) -> None:
    """Have the rest of the transaction join and group whole sets by hash, each read once.

    The planner expects row security to leave one row of each, and would compare every row of one with every other. It
    is read by one process: another one would only take from the pages that are made at the same time.
    """
    await scope.conn.execute(
        "SELECT set_config('enable_nestloop', 'off', true), set_config('enable_mergejoin', 'off', true),"
        " set_config('enable_sort', 'off', true), set_config('max_parallel_workers_per_gather', '0', true)"
    )
