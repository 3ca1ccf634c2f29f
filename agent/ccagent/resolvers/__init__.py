"""The ladder: who answers an incident. The first step that has an answer gives it; a person always has one."""

from collections.abc import Awaitable, Callable, Sequence

from ccagent.incidents import Incident, Resolution
from ccagent.resolvers import level3

Resolver = Callable[[Incident], Awaitable[Resolution | None]]


async def resolve(ladder: Sequence[Resolver], incident: Incident) -> Resolution:
    """Return the first answer on the ladder, at the latest that a person is asked."""
    for step in ladder:
        resolution = await step(incident)
        if resolution is not None:
            return resolution
    return await level3.resolve(incident)
