"""Measure: `python -m tests.bench [NAME]` prints a table and JSON, and ends with 1 when a target was missed."""

import json
import sys
from dataclasses import asdict

from tests.bench import (
    append,
    checkin,
    decide,
    drain,
    fleets,
    incident,
    ingest,
    listing,
    measure,
    overview,
    pages,
    resident,
    rls,
    verify,
    waiting,
)

ROWS = {
    "rls": rls.run,
    "overview": overview.run,
    "pages": pages.run,
    "append": append.run,
    "waiting": waiting.run,
    "incident": incident.run,
    "drain": drain.run,
    "ingest": ingest.run,
    "checkin": checkin.run,
    "listing": listing.run,
    "resident": resident.run,
    "verify": verify.run,
    "decide": decide.run,
}
# Whole fleets: minutes each, and no ratios, so they are played by name only.
FLEETS = {
    "steady": fleets.steady,
    "storm": fleets.storm,
    "flap": fleets.flap,
    "slow": fleets.slow,
    "rolling": fleets.rolling,
}


def main(names: list[str]) -> int:
    """Run the rows that are named, or all that compare."""
    known = ROWS | FLEETS
    unknown = [name for name in names if name not in known]
    if unknown:
        print(f"There is no row {unknown[0]}: there are {', '.join(known)}.", file=sys.stderr)
        return 2
    results = [result for name in names or ROWS for result in known[name]()]
    print(measure.machine())
    print(measure.table(results))
    print(json.dumps({"machine": measure.machine(), "rows": [asdict(result) for result in results]}))
    return 0 if all(result.reached for result in results) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
