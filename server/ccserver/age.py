"""Encryption to a public key, in the format of age (age-encryption.org/v1): what the `age` command opens too.

pyrage reads from one file and writes to another until it is done, so it runs in a thread at the other end of a pipe.
"""

import os
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, TypeAlias

import pyrage

from ccserver.archive import BackupBrokenError
from ccserver.errors import BadConfigError

MAGIC = b"age-encryption.org/"
# pyrage brings no types.
Recipient: TypeAlias = Any
Identity: TypeAlias = Any


class WrongIdentityError(BackupBrokenError):
    """None of the identities opens this file: it was encrypted to another public key. Nothing was changed."""


def recipient(text: str) -> Recipient:
    """Return a public key (`age1…`); BadConfigError for what is none."""
    try:
        return pyrage.x25519.Recipient.from_str(text.strip())
    except pyrage.RecipientError as error:
        raise BadConfigError(f"{text[:80]!r} is no public key of age: `age-keygen` prints one, age1….") from error


def identities(path: Path) -> list[Identity]:
    """Return the private keys of a file as `age-keygen` writes it, - for standard input; BadConfigError without any."""
    try:
        lines = (sys.stdin.read() if str(path) == "-" else path.read_text(encoding="utf-8")).splitlines()
        found = [
            pyrage.x25519.Identity.from_str(line.strip()) for line in lines if line.strip() and not line.startswith("#")
        ]
    except OSError as error:
        raise BadConfigError(f"The identity file {path} cannot be read: {error.strerror}.") from error
    except (UnicodeError, pyrage.IdentityError) as error:
        raise BadConfigError(
            f"{path} is no identity file of age: it has lines AGE-SECRET-KEY-1…. If a passphrase protects it, give what"
            " `age -d` makes of it as --identity -."
        ) from error
    if not found:
        raise BadConfigError(f"{path} holds no identity of age.")
    return found


@contextmanager
def encrypted(out: IO[bytes], recipients: Sequence[Recipient]) -> Iterator[IO[bytes]]:
    """Give a file that is encrypted into `out` as it is written; without recipients `out` itself."""
    if not recipients:
        yield out
        return
    read_end, write_end = os.pipe()
    running = _Piped(read_end, "rb", lambda pipe: pyrage.encrypt_io(pipe, out, list(recipients)))
    with running, os.fdopen(write_end, "wb") as plain:
        yield plain
    if running.error is not None:
        raise running.error


@contextmanager
def decrypted(file: IO[bytes], keys: Sequence[Identity]) -> Iterator[IO[bytes]]:
    """Give a file to read what `file` holds decrypted; WrongIdentityError, or BackupBrokenError where it was changed.

    Without being encrypted, `file` itself.
    """
    if not is_encrypted(file):
        yield file
        return
    if not keys:
        raise BadConfigError("The file is encrypted: name the file of its private key as --identity.")
    read_end, write_end = os.pipe()
    with _Piped(write_end, "wb", lambda pipe: pyrage.decrypt_io(file, pipe, list(keys))) as running:
        try:
            with os.fdopen(read_end, "rb") as plain:
                yield plain
        except BackupBrokenError:
            running.join()
            running.complain()  # what came was broken because decryption ended
            raise
    running.complain()


def is_encrypted(file: IO[bytes]) -> bool:
    """Whether a file that can be sought begins as age's do; it stands at its start afterwards."""
    start = file.read(len(MAGIC))
    file.seek(0)
    return start == MAGIC


class _Piped:
    """A thread that works at one end of a pipe, and what it failed with."""

    def __init__(self, descriptor: int, mode: str, work: Callable[[IO[bytes]], object]) -> None:
        self._thread = threading.Thread(target=self._run, args=(descriptor, mode, work), daemon=True)
        self.error: Exception | None = None

    def __enter__(self) -> "_Piped":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.join()

    def join(self) -> None:
        """Wait until the work is done."""
        self._thread.join()

    def complain(self) -> None:
        """Raise what decryption failed with, but for a reader that had enough."""
        if isinstance(self.error, pyrage.DecryptError):
            raise WrongIdentityError from self.error
        if self.error is not None and not isinstance(self.error, BrokenPipeError):
            raise BackupBrokenError from self.error

    def _run(self, descriptor: int, mode: str, work: Callable[[IO[bytes]], object]) -> None:
        try:
            with os.fdopen(descriptor, mode) as pipe:
                work(pipe)
        except (OSError, pyrage.EncryptError, pyrage.DecryptError) as error:
            self.error = error
