"""Who this appliance is: the device key, and what enrolment pinned. Files of 0600, replaced whole or not at all.

The keys before the device key stay for a while: a server that is put back from a backup of before a rotation knows only
one of them, and hears by that one's log of those that followed.
"""

import contextlib
import functools
import importlib.metadata
import os
import secrets
from collections.abc import Container, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from ccagent import files
from ccagent.places import Places
from ccshared import ed25519, purposes
from ccshared.messages import Count, Hex32, Id, Milliseconds, Name, ServerKey

SEED_BYTES = 32
MAX_EARLIER = 8


class IdentityUnusableError(Exception):
    """The identity or the device key is there but cannot be used; the message says what to do."""


class Identity(BaseModel):
    """What enrolment gave: ids, the server's name and address, its pinned keys, and which epoch number comes next.

    `next_epoch_number` is null while the server has not yet been asked for earlier epochs of this appliance;
    `previous_receipt` is the newest receipt of the newest of those, for the genesis of the next.
    `ca`: the authorities (PEM) that alone vouch for the server, null for those of this system.
    `backup_window_days`: the server may be put back from a backup as old as that, as its last check-in said.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    server: Name
    server_url: Name
    site_id: Id
    appliance_id: Id
    public_key: Hex32
    keys: Annotated[list[ServerKey], Field(min_length=1)]
    enrolled_at_ms: Milliseconds
    next_epoch_number: Count | None = None
    previous_receipt: str | None = None
    backup_window_days: Count = 0
    ca: str | None = None

    @property
    def origins(self) -> str:
        """What the origin of each of this appliance's logs begins with."""
        return f"{self.server}/log/{self.appliance_id}/"

    def signers(self, envelope: Any, *, former: bool = False) -> list[bytes]:
        """Return the order key (32 bytes) that an envelope (DSSE JSON) names, if it is the one that signs now.

        With `former` those before it too. None for an envelope that names another, or has members that the signature
        does not reach: nobody shall be able to change anything about it on the way.
        """
        match envelope:
            case {"payloadType": str(), "payload": str(), "signatures": [{"keyid": str() as name, "sig": str()} as by]}:
                if len(envelope) == 3 and len(by) == 2:
                    orders = [key for key in self.keys if key.use == "order"]
                    counting = orders if former else orders[-1:]
                    return [bytes.fromhex(key.public_key) for key in counting if key.name == name]
        return []

    @property
    def witnesses(self) -> dict[str, bytes]:
        """The 32-byte keys whose cosignature makes a receipt, by name."""
        return {key.name: bytes.fromhex(key.public_key) for key in self.keys if key.use == "witness"}


@dataclass(frozen=True)
class DeviceKey:
    """The appliance's Ed25519 key; the seed never shows in a log."""

    seed: bytes = field(repr=False)

    @functools.cached_property
    def public(self) -> bytes:
        """The raw 32-byte public key."""
        return ed25519.public_key(self.seed)

    @property
    def fingerprint(self) -> str:
        """The hex SHA-256 that people compare."""
        return purposes.fingerprint(self.public)


@dataclass(frozen=True)
class Enrolment:
    """An enrolled appliance: what it was given, its key, and the one that follows while the server may not know it.

    `earlier` are the keys before, newest first: for logs that ended, and for a server that knows no later one.
    """

    identity: Identity
    key: DeviceKey
    next_key: DeviceKey | None = None
    earlier: tuple[DeviceKey, ...] = ()

    @property
    def keys(self) -> dict[str, DeviceKey]:
        """The keys that logs of this appliance can be begun and signed with now, by their public key (hex)."""
        both = [self.key, *([self.next_key] if self.next_key else [])]
        return {key.public.hex(): key for key in both}

    @property
    def signers(self) -> dict[str, DeviceKey]:
        """The same, and the keys of before, whose logs a server may have to be filled up with again."""
        return {key.public.hex(): key for key in self.earlier} | self.keys


@functools.cache
def version() -> str:
    """Return this agent's version; what says it is read once."""
    return importlib.metadata.version("cc-agent")


def load(places: Places) -> Identity | None:
    """Return who this appliance is, None before enrolment; IdentityUnusableError when the file is spoilt."""
    try:
        data = places.identity.read_bytes()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise _unreadable(places.identity, error) from error
    try:
        return Identity.model_validate_json(data)
    except ValidationError as error:
        raise IdentityUnusableError(
            f"{places.identity} is not an identity as enrolment writes it: put back a copy, or enrol again"
            " with a new code and --replace"
        ) from error


def load_enrolment(places: Places) -> Enrolment | None:
    """Return identity and key, None before enrolment; IdentityUnusableError when one is spoilt or they do not match."""
    known = load(places)
    if known is None:
        return None
    key, next_key = load_key(places), _load_seed(places.next_device_key)
    if next_key is not None and next_key.public.hex() == known.public_key:  # cut short while it was put in its place
        _put_in_place(places)
        key, next_key = next_key, None
    if key is None or key.public.hex() != known.public_key:
        raise IdentityUnusableError(
            f"{places.device_key} is not the key that this appliance was enrolled with: put back a copy, or enrol"
            " again with a new code and --replace"
        )
    earlier = tuple(one for one in _load_earlier(places) if one not in (key, next_key))
    return Enrolment(known, key, next_key, earlier)


def save(places: Places, identity: Identity) -> None:
    """Write the identity durably in place of the one before; OSError when the disk refuses."""
    files.replace(places.identity, identity.model_dump_json(indent=1).encode() + b"\n")


def give_to_owner(places: Places) -> None:
    """Give what root wrote to whom the state directory belongs; nothing is to be done for anybody but root."""
    if os.geteuid() != 0 or not places.state_dir.is_dir():
        return
    about = places.state_dir.stat()
    for path in (places.identity, places.device_key, places.scrub_key):
        with contextlib.suppress(FileNotFoundError):
            os.chown(path, about.st_uid, about.st_gid, follow_symlinks=False)


def use_number(places: Places, known: Identity, used: Iterable[int]) -> str:
    """Return the name of the next log; its number is used up on the disk first, so that no two logs get the same.

    `used` are the numbers of the logs that are here.
    """
    number = max([known.next_epoch_number or 1, *(one + 1 for one in used)])
    save(places, known.model_copy(update={"next_epoch_number": number + 1}))
    return f"{number}-{secrets.token_hex(4)}"


def load_key(places: Places) -> DeviceKey | None:
    """Return the device key, None when none was made; IdentityUnusableError when it is not 32 bytes."""
    return _load_seed(places.device_key)


def ensure_next_key(places: Places) -> DeviceKey:
    """Return the key that is to follow, made and durable when there was none; OSError when the disk refuses."""
    known = _load_seed(places.next_device_key)
    if known is not None:
        return known
    seed = ed25519.new_seed()
    files.replace(places.next_device_key, seed)
    return DeviceKey(seed)


def promote_next_key(places: Places, who: Enrolment) -> Enrolment:
    """Let the key that follows be the device key from now on; return who that makes this appliance.

    The key so far is kept among the earlier ones before anything else. Then the identity names the new one: from then
    on the next start finishes what is left. OSError when the disk refuses.
    """
    if who.next_key is None:
        return who
    earlier = (who.key, *(one for one in _load_earlier(places) if one != who.key))[:MAX_EARLIER]
    _save_earlier(places, earlier)
    known = load(places) or who.identity
    known = known.model_copy(update={"public_key": who.next_key.public.hex()})
    save(places, known)
    _put_in_place(places)
    return Enrolment(known, who.next_key, None, earlier)


def forget_earlier(places: Places, in_use: Container[str]) -> None:
    """Delete the keys of before whose public key (hex) is not in use any more; OSError when the disk refuses."""
    known = _load_earlier(places)
    kept = [one for one in known if one.public.hex() in in_use]
    if len(kept) < len(known):
        _save_earlier(places, kept)


def _save_earlier(places: Places, keys: Sequence[DeviceKey]) -> None:
    path = places.earlier_device_keys
    if keys:
        files.write_beside(path, b"".join(key.seed for key in keys)).replace(path)
    else:
        path.unlink(missing_ok=True)
    files.sync_directory(places.state_dir)


def _load_earlier(places: Places) -> tuple[DeviceKey, ...]:
    """Return the keys of before; of a file that was cut short, those that are whole."""
    try:
        seeds = places.earlier_device_keys.read_bytes()
    except FileNotFoundError:
        return ()
    except OSError as error:
        raise _unreadable(places.earlier_device_keys, error) from error
    return tuple(DeviceKey(seeds[end - SEED_BYTES : end]) for end in range(SEED_BYTES, len(seeds) + 1, SEED_BYTES))


def _put_in_place(places: Places) -> None:
    places.next_device_key.replace(places.device_key)
    files.sync_directory(places.state_dir)


def _load_seed(path: Path) -> DeviceKey | None:
    try:
        seed = path.read_bytes()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise _unreadable(path, error) from error
    if len(seed) != SEED_BYTES:
        raise IdentityUnusableError(
            f"{path} is not a device key of {SEED_BYTES} bytes: put back a copy, or move it away and"
            " enrol again with a new code and --replace"
        )
    return DeviceKey(seed)


def ensure_key(places: Places) -> DeviceKey:
    """Return the device key, made and durable when there was none; one that is there is never overwritten."""
    known = load_key(places)
    if known is not None:
        return known
    try:
        places.state_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        temporary = files.write_beside(places.device_key, ed25519.new_seed())
        with contextlib.suppress(FileExistsError):  # another command was first: its key is the one
            os.link(temporary, places.device_key)
        temporary.unlink()
        files.sync_directory(places.state_dir)
    except OSError as error:
        raise IdentityUnusableError(
            f"{places.device_key} cannot be written ({error.strerror}): run this as the agent's user, or make room"
        ) from error
    return ensure_key(places)


def _unreadable(path: Path, error: OSError) -> IdentityUnusableError:
    return IdentityUnusableError(f"{path} cannot be read ({error.strerror}): run this as the agent's user")
