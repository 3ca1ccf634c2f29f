"""What the server's handlers share for as long as the process runs: the pool, the keys, the configuration."""

import asyncio
import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from starlette.requests import Request

from ccserver import catalogue
from ccserver.config import Config
from ccserver.keys import SEAL_PURPOSE, KeyFile, ServerKeys
from ccserver.limits import Buckets, Limits, Rate, Told
from ccserver.live import Streams
from ccserver.marks import Marks
from ccserver.metrics import Metrics
from ccserver.scope import Database
from ccshared.runbooks import Runbook, digest

# Batches between body and commit. Unbounded, 64 appliances at once take four times the memory at the same speed.
_BATCHES = 8
_TOLD = Rate(1 / 600, 5)  # failed sign-ins of one account that the audit log tells one by one
_EXPORTS = 2  # each packs on a core
_PASSWORDS = 2  # argon2 takes 64 MiB each


@dataclass(frozen=True)
class Context:
    """Made once by the lifespan. Its `…_key`s derive from the key file as it is now, its catalogue comes packaged."""

    db: Database
    key_file: KeyFile
    config: Config
    marks: Marks
    limits: Limits
    catalogue: Mapping[str, Runbook]
    catalogue_digest: str
    streams: Streams
    metrics: Metrics = field(default_factory=Metrics)
    refusals_told: Told = field(default_factory=lambda: Told(Buckets(_TOLD)))
    keys_used: Buckets = field(default_factory=lambda: Buckets(Rate(1 / 60, 1)))
    background: set[asyncio.Task[None]] = field(default_factory=set)
    appends: Counter[str] = field(default_factory=Counter)
    batches: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(_BATCHES))
    exports: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(_EXPORTS))
    passwords: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(_PASSWORDS))

    @property
    def keys(self) -> ServerKeys:
        """The server's keys as its key file holds them now."""
        return self.key_file.current

    @property
    def token_key(self) -> bytes:
        """What access tokens are made by."""
        return self.key_file.derived("cc access token v1")[0]

    @property
    def nonce_key(self) -> bytes:
        """What nonces are made by."""
        return self.key_file.derived("cc nonce v1")[0]

    @property
    def cursor_key(self) -> bytes:
        """What the cursors of lists are made by."""
        return self.key_file.derived("cc cursor v1")[0]

    @property
    def ticket_key(self) -> bytes:
        """What is given between a password and a code."""
        return self.key_file.derived("cc sign-in ticket v1")[0]

    @property
    def seal_key(self) -> bytes:
        """What is sealed by from now on."""
        return self.key_file.derived(SEAL_PURPOSE)[0]

    @property
    def unseal_keys(self) -> Sequence[bytes]:
        """What may have been sealed by: the newest first."""
        return self.key_file.derived(SEAL_PURPOSE)


def make(db: Database, key_file: KeyFile, config: Config, marks: Marks, streams: Streams) -> Context:
    """Return the context for an open pool."""
    runbooks = catalogue.load()
    return Context(
        db,
        key_file,
        config,
        limits=Limits(config.rates),
        marks=marks,
        catalogue=runbooks,
        catalogue_digest=_digest(runbooks),
        streams=streams,
    )


def _digest(runbooks: Mapping[str, Runbook]) -> str:
    """Return the hex SHA-256 over the digests of all runbooks, in order."""
    return hashlib.sha256("".join(map(digest, runbooks.values())).encode()).hexdigest()


def of(request: Request) -> Context:
    """Return the context that the lifespan made."""
    context: Context = request.scope["state"]["context"]
    return context
