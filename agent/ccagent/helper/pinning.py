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


def pin(state_dir: Path, wanted: Pin, fingerprint: str | None = None, *, replace: bool = False) -> None:
    """Pin a server and appliance durably; NotPinnedError when another is pinned and it was not said to replace it.

    `fingerprint` (hex SHA-256), where given, must be that of one of the order keys. What ran stays on record.
    """
    if not wanted.order_keys:
        raise NotPinnedError("the server named no order key: enrol again with a new code")
    if fingerprint is not None and fingerprint not in map(purposes.fingerprint, wanted.order_keys.values()):
        raise NotPinnedError("no order key of this enrolment has that fingerprint: do not trust it, enrol again")
    places = HelperPlaces(state_dir)
    try:
        owned.make_private(state_dir)
        before = _before(places, wanted, replace=replace)
        journal.create(places.journal)
        if before is None or before.server != wanted.server:
            with journal.open_journal(places.journal) as tx:
                journal.forget_server(tx)
        pinned.save(places.pinned, wanted)
    except OSError as error:
        raise NotPinnedError(f"{error.filename} cannot be written ({error.strerror}): run this as root") from error
    except (owned.NotOursError, JournalUnusableError) as error:
        raise NotPinnedError(str(error)) from error


def _before(places: HelperPlaces, wanted: Pin, *, replace: bool) -> Pin | None:
    """Return what was pinned, None for nothing (or for something spoilt that is to be replaced)."""
    if not places.pinned.exists():
        return None
    try:
        before = pinned.load(places.pinned)
    except PinUnusableError as error:
        if replace:
            return None
        raise NotPinnedError(str(error)) from error
    same = (before.server, before.site, before.appliance) == (wanted.server, wanted.site, wanted.appliance)
    if not same and not replace:
        raise NotPinnedError(
            f"{before.server} is pinned, for appliance {before.appliance}: say --replace if that is over"
        )
    if not places.journal.exists() and not replace:
        raise NotPinnedError(f"{places.journal} is gone, and with it what ran: say --replace if nothing can run again")
    return before
