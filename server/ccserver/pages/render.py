"""Pages become HTML here: one Jinja2 environment, and the headers that every page carries."""

import hashlib
from collections.abc import Mapping
from datetime import UTC, datetime
from importlib import resources
from typing import Any

import jinja2
from starlette.requests import Request
from starlette.responses import HTMLResponse, RedirectResponse, Response

from ccserver.http import request_id
from ccserver.pages import wording

# Nothing is loaded from anywhere else, nothing runs, nobody frames a page, and no copy of it stays behind.
_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; style-src 'self'; img-src 'self'; form-action 'self';"
    " frame-ancestors 'none'; base-uri 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "same-origin",
    "Cache-Control": "no-store",
}


def _environment() -> jinja2.Environment:
    made = jinja2.Environment(
        loader=jinja2.PackageLoader("ccserver"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        auto_reload=False,
    )
    made.filters |= {"ago": wording.ago, "span": wording.span, "utc": wording.utc, "iso": wording.iso}
    made.globals["css_version"] = _digest("app.css")
    return made


def _digest(name: str) -> str:
    """Name a static file's content, so that a new release's page never meets the old file in a cache."""
    return hashlib.sha256(resources.files("ccserver").joinpath("static", name).read_bytes()).hexdigest()[:12]


_TEMPLATES = _environment()


def page(request: Request, template: str, values: Mapping[str, Any], status: int = 200) -> Response:
    """Return a page; templates also see `person` (None before sign-in), `now` and `request_id`."""
    known = {
        "person": getattr(request.state, "principal", None),
        "now": datetime.now(UTC),
        "request_id": request_id(request),
    }
    return HTMLResponse(_TEMPLATES.get_template(template).render(known | dict(values)), status, _HEADERS)


def message(request: Request, title: str, text: str, status: int) -> Response:
    """Return a page that says one thing: what is wrong, and what to do."""
    return page(request, "message.html", {"title": title, "text": text}, status)


def redirect(to: str) -> Response:
    """Send the browser on with a GET."""
    return RedirectResponse(to, 303, _HEADERS)
