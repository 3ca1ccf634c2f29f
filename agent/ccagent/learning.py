"""Learning the server's new keys: asked of the server, believed only as far as the pinned keys lead to them."""

import logging

from ccagent import identity, keyring
from ccagent.client import Client
from ccagent.identity import Identity
from ccagent.places import Places

log = logging.getLogger(__name__)


async def learn(client: Client, places: Places, known: Identity) -> Identity | None:
    """Follow the server's keys from those that are pinned, and pin what they lead to; None when that adds none.

    RequestError when the server does not tell.
    """
    told = await client.keys()
    keys = keyring.follow(known.server, known.keys, told.statements)
    if len(keys) == len(known.keys):
        return None
    log.info("the server's keys followed one another: %s", ", ".join(key.name for key in keys))
    learned = known.model_copy(update={"keys": keys})
    on_disk = identity.load(places)
    if on_disk is not None and on_disk.enrolled_at_ms == known.enrolled_at_ms:
        identity.save(places, on_disk.model_copy(update={"keys": keys}))
    return learned
