"""The bench asks every page there is: one that is new is measured, or it says why not."""

import re

from ccserver import app
from tests.bench import pages


def of_people() -> set[str]:
    """Return what answers a GET with a page."""
    machines = re.compile(r"/(api/v1|agent)/|/(healthz|readyz|api/openapi\.json)$")
    return {row.path for row in app.ENDPOINTS if row.method == "GET" and not machines.match(row.path)}


def test_every_page_of_the_route_table_is_asked_or_says_why_not() -> None:
    asked = {name for name in pages.rows() if name in of_people()}
    assert of_people() - asked == set(pages.NOT_ASKED)
    assert all(pages.NOT_ASKED.values())


def test_every_page_that_takes_a_choice_is_asked_with_one_made() -> None:
    for path in ("/fleet-order", "/sites/{site}/order"):
        assert any(name.startswith(f"{path} ") for name in pages.rows()), path
