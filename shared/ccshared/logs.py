"""One line for each record of the log: JSON for programs, key=value for a terminal.

An exception is written as its class and where it passed through, never as its text: that repeats what people sent.
Control characters are escaped in both forms, so that nothing that was sent can begin a line of its own.
"""

import contextlib
import json
import logging
import re
import sys
import traceback
from datetime import UTC, datetime
from typing import Any, Literal, get_args

import orjson

Format = Literal["json", "text"]
FORMATS: tuple[str, ...] = get_args(Format)
_PLAIN = re.compile(r"[0-9A-Za-z._:/+{}<>\[\],-]+")
_CAUSES = 4
_FRAMES = 30
_CHATTY = ("httpx", "httpcore", "asyncio", "uvicorn")


class Lines(logging.Formatter):
    """Formats a record as one line; `extra={"fields": {…}}` of a log call become members beside the event."""

    def __init__(self, form: Format) -> None:
        super().__init__()
        self._write = _as_json if form == "json" else _as_text

    def format(self, record: logging.LogRecord) -> str:
        """Return the line, without its end."""
        said: dict[str, Any] = {
            "at": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "event": _event(record),
        }
        said |= getattr(record, "fields", {})
        if record.exc_info and record.exc_info[1] is not None:
            said["error"] = _errors(record.exc_info[1])
        return self._write(said)


def start(form: Format) -> None:
    """Write every logger's records to standard error, a line each; what libraries say from a warning up.

    What no line of ours says (thread, process, task, place in the source) is not looked for, which is half of the work.
    """
    logging.logThreads = logging.logProcesses = logging.logMultiprocessing = False
    logging._srcfile = None
    if sys.version_info >= (3, 12):
        logging.logAsyncioTasks = False
    to_stderr = logging.StreamHandler(sys.stderr)
    to_stderr.setFormatter(Lines(form))
    logging.basicConfig(level=logging.INFO, handlers=[to_stderr], force=True)
    for name in _CHATTY:
        logging.getLogger(name).setLevel(logging.WARNING)


def _event(record: logging.LogRecord) -> str:
    """asyncio and uvicorn add lines of their own to a message, with an exception's text among them."""
    text = record.getMessage()
    return text.partition("\n")[0] if record.name.startswith(_CHATTY) else text


def _errors(error: BaseException) -> list[dict[str, Any]]:
    """Return an exception and its causes: class, SQLSTATE where PostgreSQL refused, and the stack without values."""
    found: list[dict[str, Any]] = []
    at: BaseException | None = error
    while at is not None and len(found) < _CAUSES:
        kind = type(at)
        said: dict[str, Any] = {"class": f"{kind.__module__}.{kind.__qualname__}"}
        if isinstance(state := getattr(at, "sqlstate", None), str):
            said["sqlstate"] = state
        said["stack"] = _stack(at)
        found.append(said)
        at = at.__cause__ or (None if at.__suppress_context__ else at.__context__)
    return found


def _stack(error: BaseException) -> list[str]:
    frames = traceback.StackSummary.extract(traceback.walk_tb(error.__traceback__), lookup_lines=False)
    return [f"{_module(frame.filename)}:{frame.lineno}:{frame.name}" for frame in frames][-_FRAMES:]


def _module(path: str) -> str:
    """Name a file by its last two parts: enough to find it, and no place of this machine."""
    return "/".join(path.rsplit("/", 2)[-2:])


def _as_json(said: dict[str, Any]) -> str:
    """ASCII only: no separator of Unicode ends a line either."""
    with contextlib.suppress(TypeError):  # for what it does not write: half a character, a number beyond 64 bits
        line = orjson.dumps(said, default=str)
        if line.isascii():
            return line.decode()
    return json.dumps(said, default=str, separators=(",", ":"))


def _as_text(said: dict[str, Any]) -> str:
    at, level, logger, event = said["at"], said["level"].upper(), said["logger"], said["event"]
    rest = [f"{name}={_text(value)}" for name, value in said.items() if name not in ("at", "level", "logger", "event")]
    return " ".join([at, level, f"{logger}:", json.dumps(event, ensure_ascii=True)[1:-1].replace('\\"', '"'), *rest])


def _text(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value, default=str)
    return text if _PLAIN.fullmatch(text) else json.dumps(text)
