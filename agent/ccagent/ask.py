"""How other commands ask the running agent: one JSON line to its local socket, one back.

Asked by commands that must answer at once, so it imports the standard library only.
"""

import json
import socket
import time
from typing import Any

from ccagent.places import Places

MAX_LINE = 4 * 1024 * 1024
PATIENCE_S = 5.0


class NoAgentError(Exception):
    """No agent listens on the socket."""


class NoAnswerError(Exception):
    """An agent listens but gave no proper answer in time."""


def ask(places: Places, request: dict[str, Any]) -> dict[str, Any]:
    """Return the running agent's answer; NoAgentError when none runs, NoAnswerError when it does not answer in 5 s."""
    deadline = time.monotonic() + PATIENCE_S
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as line:
        line.settimeout(PATIENCE_S)
        try:
            line.connect(str(places.socket))
        except PermissionError as error:
            raise NoAnswerError(
                f"{places.socket} is not open to this user: run this as root or as a member of the agent's group"
            ) from error
        except OSError as error:
            raise NoAgentError("no agent runs here") from error
        try:
            line.sendall(json.dumps(request).encode() + b"\n")
            answer = json.loads(_read_line(line, deadline))
        except (OSError, ValueError) as error:
            raise NoAnswerError("the agent runs but does not answer: look into its log, or restart it") from error
    if not isinstance(answer, dict) or "error" in answer:
        raise NoAnswerError(f"the agent answered: {answer}")
    return answer


def _read_line(line: socket.socket, deadline: float) -> bytes:
    data = bytearray()
    while not data.endswith(b"\n"):
        line.settimeout(max(0.01, deadline - time.monotonic()))
        chunk = line.recv(65536)
        if not chunk or len(data) > MAX_LINE:
            raise OSError("the answer broke off, or has no end")
        data += chunk
    return bytes(data)
