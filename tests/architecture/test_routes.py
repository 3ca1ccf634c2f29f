"""Routes: all come from the route table, and each declares who may call it."""

from starlette.routing import Mount, Route

from ccserver import app
from ccserver.http import Caller


def test_every_route_comes_from_the_table_and_declares_its_caller() -> None:
    declared = {(row.method, row.path) for row in app.ENDPOINTS}
    assert len(declared) == len(app.ENDPOINTS)
    assert all(isinstance(row.caller, Caller) for row in app.ENDPOINTS)
    made = {
        (method, route.path) for route in app.routes() if isinstance(route, Route) for method in route.methods or ()
    }
    assert made - {("HEAD", path) for _, path in declared} == declared
    assert [route for route in app.routes() if isinstance(route, Mount)] == []


def test_every_handler_says_what_it_does() -> None:
    assert [row.path for row in app.ENDPOINTS if not (row.handler.__doc__ or "").strip()] == []


def test_appliances_call_agent_routes_and_people_never_do() -> None:
    for row in app.ENDPOINTS:
        assert (row.caller is Caller.DEVICE) <= row.path.startswith("/agent/v1/")
        assert (row.caller is Caller.PERSON) <= (not row.path.startswith("/agent/"))
