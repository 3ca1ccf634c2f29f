"""What the agent does itself when it is ordered to, and whom its planner asks beside the server."""

import asyncio
from functools import partial
from typing import Any

from ccagent import client, files, report, support
from ccagent.client import RequestError
from ccagent.config import PlannerSettings
from ccagent.places import Places
from ccagent.report import Vitals
from ccagent.resolvers.level2 import NonsenseError, Planners
from ccagent.store import Store
from ccshared import phi


async def support_bundle(places: Places, store: Store, vitals: Vitals, lines: list[str]) -> str:
    """Write a support bundle into the state directory (0600) in place of the one before; return where it is.

    OSError when the disk refuses.
    """
    parts: dict[str, Any] = {
        f"{name}.json": report.answer({"ask": name}, places, store, vitals) for name in support.QUESTIONS
    }
    parts |= {"log.json": {"lines": lines}, "versions.json": support.versions()}
    try:
        packed = await asyncio.to_thread(support.pack, parts)
    except phi.ScrubError as error:
        raise OSError(0, "personal data could not be told apart") from error
    files.replace(places.support_bundle, packed)
    return f"{places.support_bundle}: {len(packed)} bytes"


def planners(settings: PlannerSettings) -> Planners:
    """Return whom the planner asks beside the server: nobody, unless the settings name an endpoint."""
    return Planners(None, partial(_complete, settings) if settings.url else None, settings.model)


async def _complete(settings: PlannerSettings, question: dict[str, Any]) -> Any:
    """Return what the endpoint answers; NonsenseError when it does not within its limit."""
    try:
        key = settings.key_file.read_text("utf-8").strip() if settings.key_file is not None else None
        return await client.ask_endpoint(settings.url or "", key, question, settings.timeout_s)
    except (RequestError, OSError, UnicodeDecodeError) as error:
        raise NonsenseError(f"the planner's endpoint is no help: {error}") from error
