"""Pages become HTML here: one Jinja2 environment, and the headers that every page carries."""

import functools
import hashlib
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from importlib import resources
from typing import Any
from urllib.parse import quote_plus

import jinja2
from markupsafe import Markup
from starlette.requests import Request
from starlette.responses import HTMLResponse, RedirectResponse, Response

from ccserver import auth
from ccserver.http import Caller, request_id
from ccserver.pages import wording

# Nothing comes from anywhere else, only our own files run, nobody frames a page, and no copy of it stays behind.
_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self';"
    " connect-src 'self'; form-action 'self'; frame-ancestors 'none'; base-uri 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "same-origin",
    "Cache-Control": "no-store",
}
_ROLES = (Caller.READ, Caller.OPERATE, Caller.OWN, Caller.PLATFORM)


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
    made.filters["milliseconds"] = wording.milliseconds
    made.filters["when"] = _when
    made.globals["static"] = _static
    return made


def _when(moment: datetime, now: datetime) -> Markup:
    """Return a time in words with the exact one, which scripts say in the viewer's zone; pages ask for hundreds."""
    said = f"{moment.astimezone(UTC):%Y-%m-%d %H:%M:%S}"
    return Markup(  # noqa: S704  a time, and nothing that anybody wrote
        f'<time datetime="{wording.iso(moment)}" title="{said} UTC" data-ago>{wording.ago(moment, now)}</time>'
    )


@functools.cache
def _static(name: str) -> str:
    """Return a static file's address, which names its content: a new release's page never meets the old file."""
    content = resources.files("ccserver").joinpath("static", *name.split("/")).read_bytes()
    return f"/static/{name}?v={hashlib.sha256(content).hexdigest()[:12]}"


_TEMPLATES = _environment()


def page(request: Request, template: str, values: Mapping[str, Any], status: int = 200) -> Response:
    """Return a page; templates also see `person` (None before sign-in), `now`, `request_id`, `at` and `may`.

    `at(path, …)` is an address of this server with the partner whom a platform admin chose; `may.operate` and so on say
    what the person may do.
    """
    person = getattr(request.state, "principal", None)
    known = {
        "person": person,
        "chosen": chosen(request),
        "here": request.url.path,
        "at": addresses(request),
        "may": {caller.name.lower(): person is not None and auth.may(person, caller) for caller in _ROLES},
        "now": datetime.now(UTC),
        "request_id": request_id(request),
    }
    return HTMLResponse(_TEMPLATES.get_template(template).render(known | dict(values)), status, _HEADERS)


def part(template: str, values: Mapping[str, Any]) -> str:
    """Return a part of a page that is the same for everybody, whole HTML: a page that shows it escapes it no more."""
    return Markup(_TEMPLATES.get_template(template).render(values))  # noqa: S704  escaped by the template


def choose(request: Request, partner_id: str) -> None:
    """Have the links of a platform admin's page name a partner that its own address does not."""
    request.state.chosen_partner = partner_id


def chosen(request: Request) -> str | None:
    """Return the partner whom a platform admin chose; None for everybody else, who has one."""
    person = getattr(request.state, "principal", None)
    if person is None or not person.is_platform_admin:
        return None
    return getattr(request.state, "chosen_partner", None) or request.query_params.get("partner")


def addresses(request: Request) -> Callable[..., str]:
    """Return what makes an address of a path and its query; what is empty is left out."""
    partner = chosen(request)
    own = f"partner={quote_plus(partner)}" if partner else ""

    def at(path: str, **query: object) -> str:
        given = [f"{name}={quote_plus(str(value))}" for name, value in query.items() if value not in (None, "")]
        if own:
            given.insert(0, own)
        return f"{path}?{'&'.join(given)}" if given else path

    return at


def message(request: Request, title: str, text: str, status: int) -> Response:
    """Return a page that says one thing: what is wrong, and what to do."""
    return page(request, "message.html", {"title": title, "text": text}, status)


def redirect(to: str) -> Response:
    """Send the browser on with a GET."""
    return RedirectResponse(to, 303, _HEADERS)
