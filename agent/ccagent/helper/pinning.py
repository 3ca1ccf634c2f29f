"""Pinning the server whose orders are obeyed: once, by root, from what enrolment gave the agent."""

from pathlib import Path

from ccagent.helper import journal, owned, pinned
from ccagent.helper.journal import JournalUnusableError
from ccagent.helper.pinned import Pin, PinUnusableError
from ccagent.helper.places import HelperPlaces
from ccagent.identity import Identity
from ccshared import purposes


class NotPinnedError(Exception):
    """Nothing was pinned; the message says why, and what to do."""


def of(known: Identity) -> Pin:
    """Return what an enrolment pins."""
    return Pin(server=known.server, site=known.site_id, appliance=known.appliance_id, keys=known.keys)


def pin(state_dir: Path, wanted: Pin, fingerprint: str | None = None, *, replace: bool = False) -> Pin:
    """Pin a server and appliance durably, and return what is pinned now; what ran stays on record.

    What is pinned already stays, with the keys that were followed since: NotPinnedError when it is another server,
    appliance or key, and it was not said to replace it. Of the order keys only that with the `fingerprint` (hex
    SHA-256) is pinned, where one is given: the agent may have been told of others, which must be followed from it.
    """
    wanted = _of_fingerprint(wanted, fingerprint)
    places = HelperPlaces(state_dir)
    try:
        owned.make_private(state_dir)
        before = _before(places, replace=replace)
        if before is not None and not replace:
            return _same(places, before, wanted)
        journal.create(places.journal)
        if before is None or before.server != wanted.server:
            with journal.open_journal(places.journal) as tx:
                journal.forget_server(tx)
        pinned.save(places.pinned, wanted)
    except OSError as error:
        raise NotPinnedError(f"{error.filename} cannot be written ({error.strerror}): run this as root") from error
    except (owned.NotOursError, JournalUnusableError) as error:
        raise NotPinnedError(str(error)) from error
    return wanted


def _of_fingerprint(wanted: Pin, fingerprint: str | None) -> Pin:
    named = {name: key for name, key in wanted.order_keys.items() if fingerprint in (None, purposes.fingerprint(key))}
    if not wanted.order_keys:
        raise NotPinnedError("the server named no order key: enrol again with a new code")
    if not named:
        raise NotPinnedError("no order key of this enrolment has that fingerprint: do not trust it, enrol again")
    return wanted.model_copy(update={"keys": [key for key in wanted.keys if key.use != "order" or key.name in named]})


def _before(places: HelperPlaces, *, replace: bool) -> Pin | None:
    """Return what was pinned, None for nothing (or for something spoilt that is to be replaced)."""
    if not places.pinned.exists():
        return None
    try:
        return pinned.load(places.pinned)
    except PinUnusableError as error:
        if replace:
            return None
        raise NotPinnedError(str(error)) from error


def _same(places: HelperPlaces, before: Pin, wanted: Pin) -> Pin:
    if (before.server, before.site, before.appliance) != (wanted.server, wanted.site, wanted.appliance):
        raise NotPinnedError(
            f"{before.server} is pinned, for appliance {before.appliance}: say --replace if that is over"
        )
    if not before.order_keys.items() & wanted.order_keys.items():
        raise NotPinnedError(f"{before.server} is pinned with another order key: say --replace if that is over")
    if not places.journal.exists():
        raise NotPinnedError(f"{places.journal} is gone, and with it what ran: say --replace if nothing can run again")
    return before
