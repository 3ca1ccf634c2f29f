"""A server in memory with the real witness's rule, spoken to as the agent's client is: no socket, no database."""

import gzip
import random
from dataclasses import dataclass, field, replace
from typing import Any

from ccagent.client import PermanentError, ProtocolError, RequestError, TransientError
from ccserver import deriving, errors, witness
from ccserver.witness import Line, Log
from ccshared import batch, ed25519, merkle, notes
from ccshared.messages import Epochs, Head, ServerKeysAnswer
from ccshared.vocabulary import Kind
from tests.faults.appliance import DEVICE, WITNESS, WITNESS_NAME

COSIGNED_AT = 1_800_000_000
_WITNESSES = {WITNESS_NAME: ed25519.public_key(WITNESS)}


@dataclass
class Stored:
    """One log: its row, and what stands at each place."""

    row: Log
    lines: list[Line] = field(default_factory=list)


@dataclass
class MemoryServer:
    """`weather` decides which answers are lost and which requests fail; None: none."""

    weather: random.Random | None = None
    appliance_id: str = "ap-1"
    public_key: bytes = ed25519.public_key(DEVICE)
    logs: dict[str, Stored] = field(default_factory=dict)

    def now_s(self) -> int:
        """Return when it is at the server (s UTC)."""
        return COSIGNED_AT

    async def head(self, epoch: str) -> Head:
        self._fail_sometimes()
        return self._head(epoch)

    async def epochs(self) -> Epochs:
        self._fail_sometimes()
        return Epochs(epochs=[self._head(epoch) for epoch in self.logs])

    async def keys(self) -> ServerKeysAnswer:
        return ServerKeysAnswer(keys=[])

    async def append(self, epoch: str, body: bytes) -> Head:
        self._fail_sometimes()
        sent = batch.read(gzip.decompress(body))
        stored = self.logs.get(epoch) or Stored(self._new_row(len(self.logs) + 1, epoch))
        leaves = [line.leaf for line in stored.lines[sent.first : min(sent.end, stored.row.size)]]
        try:
            step = witness.examine(stored.row, sent, leaves, _WITNESSES)
        except errors.CentralCommandError as error:
            raise _named(error) from error
        if step is not None:
            held = step.held
            stored.lines += step.lines
            stored.row = replace(
                stored.row,
                size=step.size,
                last_leaf=step.lines[-1].leaf,
                compact=step.compact,
                checkpoint=step.checkpoint,
                cosigned_at=None if held else self.now_s(),
                witness_name=None if held else WITNESS_NAME,
                held_size=held.size if held else None,
                held_root=held.root if held else None,
            )
            self.logs[epoch] = stored
        self._fail_sometimes()  # and the answer is lost
        return self._head(epoch)

    def root_at(self, epoch: str, size: int) -> bytes | None:
        """Return the root over a log's first entries; None when it has fewer."""
        stored = self.logs.get(epoch)
        if stored is None or stored.row.size < size:
            return None
        return merkle.root([line.leaf for line in stored.lines[:size]])

    def has(self) -> set[str]:
        """Return the leaves (hex) of all entries that are here, at their place or carried."""
        found = set()
        for stored in self.logs.values():
            for line in stored.lines:
                found.add(line.leaf.hex())
                if line.entry and line.entry.kind == Kind.RECOVERED:
                    old = deriving.carried(line.entry)
                    found |= {old.leaf.hex()} if old else set()
        return found

    def _head(self, epoch: str) -> Head:
        stored = self.logs.get(epoch)
        row = stored.row if stored else None
        if row is None or row.checkpoint is None or row.cosigned_at is None:
            return Head(epoch=epoch, size=row.size if row else 0, receipt=None)
        receipt = notes.cosign(row.checkpoint, WITNESS_NAME, WITNESS, row.cosigned_at)
        return Head(epoch=epoch, size=row.size, receipt=receipt)

    def _new_row(self, number: int, epoch: str) -> Log:
        origin = f"cc.example/log/{self.appliance_id}/{epoch}"
        empty: dict[str, Any] = {"last_leaf": None, "compact": [], "checkpoint": None, "cosigned_at": None}
        return Log(number, epoch, origin, self.public_key, 0, witness_name=None, **empty)

    def _fail_sometimes(self) -> None:
        if self.weather is not None and self.weather.random() < 0.1:
            raise TransientError("the line broke")


def _named(error: errors.CentralCommandError) -> RequestError:
    """Return an error as the client would name it."""
    kind = (
        PermanentError if isinstance(error, errors.EntryInvalidError | errors.CheckpointInvalidError) else ProtocolError
    )
    named = kind(str(error))
    named.silence = False
    return named
