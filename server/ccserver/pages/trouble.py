"""What a browser is shown when something went wrong: what it was, what to do next, and the id in the log."""

from starlette.requests import Request
from starlette.responses import Response

from ccserver.errors import CentralCommandError
from ccserver.http import retry_after, status_of
from ccserver.pages import render

_ANY = ("This did not work", "Go back and try again.")
# By status: the title, and what to do next.
_SAID = {
    403: ("You may not do this", "Somebody of your partner with another role can do it, or give you that role."),
    404: ("Not found", "The address may be old or mistyped, or what it names is not yours to see."),
    405: ("Not this way", "The address is right, but a page does not ask it like this: begin at the dashboard."),
    408: ("It took too long", "The line may be slow: try again."),
    413: ("Too large", "Send less at once: forms here take a few kilobytes."),
    422: ("Not understood", "Go back, correct what the sentence above names, and send it again."),
    429: ("Too many at once", "Wait a little, then try again."),
    500: ("The server made a mistake", "Try again in a minute. If it stays, tell who runs this server the id below."),
    503: ("Not at the moment", "Nothing was changed. Try again in a minute; appliances keep their evidence meanwhile."),
}


def page(request: Request, error: CentralCommandError, status: int | None = None) -> Response:
    """Return the page of an error, with this status if it is not the error's own."""
    status = status or status_of(error)[0]
    title, next_step = _SAID.get(status, _ANY)
    values = {"title": title, "text": str(error), "next_step": next_step}
    answer = render.page(request, "trouble.html", values, status)
    answer.headers.update(retry_after(error))
    return answer
