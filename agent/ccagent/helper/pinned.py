"""Whose orders are obeyed: the server, this appliance, and the server's keys, pinned once by root and then followed."""

from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from ccagent import files, keyring
from ccshared.messages import Id, Name, ServerKey


class PinUnusableError(Exception):
    """There is no usable pin; the message says what to do."""


class Pin(BaseModel):
    """The server's name and keys, and the site and appliance that orders must be addressed to."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    server: Name
    site: Id
    appliance: Id
    keys: Annotated[list[ServerKey], Field(min_length=1)]

    @property
    def order_keys(self) -> dict[str, bytes]:
        """The raw order keys that there were, by name, oldest first; the last one signs."""
        return {key.name: bytes.fromhex(key.public_key) for key in self.keys if key.use == "order"}


def load(path: Path) -> Pin:
    """Return the pin; PinUnusableError when there is none or it is spoilt."""
    try:
        return Pin.model_validate_json(path.read_bytes())
    except FileNotFoundError as error:
        raise PinUnusableError("no server is pinned: run cc-agent helper pin as root") from error
    except (OSError, ValidationError) as error:
        raise PinUnusableError(f"{path} cannot be used: run cc-agent helper pin --replace as root") from error


def save(path: Path, pin: Pin) -> None:
    """Write the pin durably in place of the one before; OSError when the disk refuses."""
    files.replace(path, pin.model_dump_json(indent=1).encode() + b"\n")


def follow(path: Path, statements: list[dict[str, Any]]) -> Pin:
    """Add the keys that statements (DSSE, oldest first) name, each signed by the newest order key up to then."""
    pin = load(path)
    keys = keyring.follow(pin.server, pin.keys, statements)
    if len(keys) == len(pin.keys):
        return pin
    grown = pin.model_copy(update={"keys": keys})
    save(path, grown)
    return grown
