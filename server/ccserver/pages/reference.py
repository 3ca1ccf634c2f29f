"""The reference of the API for people: a page made from the OpenAPI document, and says what that says."""

import functools
from collections.abc import Callable
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from ccserver.http import Caller, Endpoint
from ccserver.pages import render


def endpoint(document: Callable[[], dict[str, Any]]) -> Endpoint:
    """Return the route of the page on an OpenAPI document, which is the same as long as the process lives."""

    @functools.cache
    def content() -> str:
        made = document()
        values = {"operations": _operations(made), "schemas": made["components"]["schemas"]}
        return render.part("reference_content.html", values)

    async def show(request: Request) -> Response:
        """Show the reference of the API."""
        return render.page(request, "reference.html", {"content": content()})

    return Endpoint("GET", "/api/reference", show, Caller.ANYONE)


def _operations(made: dict[str, Any]) -> list[dict[str, Any]]:
    return [
        {"method": method.upper(), "path": path, **operation}
        for path, methods in sorted(made["paths"].items())
        for method, operation in methods.items()
    ]
