"""The field's usual stack, written well: FastAPI, SQLAlchemy's AsyncSession, asyncpg; it does what our routes do.

Run by Python of the rivals' environment as `-m tests.bench.peer_app KEYS PORT URL`. It verifies tokens and batches with
our own functions, cosigns with the same key, and commits with the same durability. What ours does beyond, it leaves
out: rate limits, quotas, row security, policies, states and snapshots derived from evidence, forks on record.
"""

import gzip
import hashlib
import sys
import time
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import uvicorn
from fastapi import Depends, FastAPI, Header, HTTPException, Request
from pydantic import BaseModel
from sqlalchemy import DateTime, Identity, bindparam, exists, func, insert, select, update
from sqlalchemy.dialects.postgresql import ARRAY, JSONB
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker, create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column
from sqlalchemy.types import BigInteger, LargeBinary, Text

from ccserver import keys, tokens, witness
from ccserver.tokens import Device
from ccserver.witness import Line, Log, Step
from ccshared import batch, notes

SERVER_KEYS = keys.load(Path(sys.argv[1]))
TOKEN_KEY = SERVER_KEYS.derive("cc access token v1")
ENGINE = create_async_engine(sys.argv[3].replace("postgresql://", "postgresql+asyncpg://", 1), pool_size=10)
SESSIONS = async_sessionmaker(ENGINE, expire_on_commit=False)
app = FastAPI()


class Base(DeclarativeBase):
    type_annotation_map = {  # noqa: RUF012  as SQLAlchemy wants it
        int: BigInteger, str: Text, bytes: LargeBinary, datetime: DateTime(timezone=True), dict[str, Any]: JSONB,
    }  # fmt: skip


class Appliance(Base):
    __tablename__ = "peer_appliances"
    site_id: Mapped[str] = mapped_column(primary_key=True)
    id: Mapped[str] = mapped_column(primary_key=True)
    partner_id: Mapped[str]
    hostname: Mapped[str]
    public_key: Mapped[bytes]
    revoked_at: Mapped[datetime | None]
    version: Mapped[str | None]
    is_online: Mapped[bool]
    last_checkin: Mapped[datetime | None]
    clock: Mapped[str | None]
    clock_offset_ms: Mapped[int | None]
    epoch: Mapped[str | None]
    log_size: Mapped[int | None]
    waiting: Mapped[int | None]
    waiting_bytes: Mapped[int | None]
    oldest_at: Mapped[datetime | None]
    alarms: Mapped[list[str]] = mapped_column(ARRAY(Text))
    policy_version: Mapped[int | None]
    orders_until: Mapped[datetime | None]


class EvidenceLog(Base):
    __tablename__ = "peer_logs"
    site_id: Mapped[str] = mapped_column(primary_key=True)
    appliance_id: Mapped[str] = mapped_column(primary_key=True)
    epoch: Mapped[str] = mapped_column(primary_key=True)
    partner_id: Mapped[str]
    id: Mapped[int] = mapped_column(Identity(always=True))
    origin: Mapped[str]
    public_key: Mapped[bytes]
    size: Mapped[int] = mapped_column(default=0)
    last_leaf: Mapped[bytes | None]
    compact_range: Mapped[bytes] = mapped_column(default=b"")
    checkpoint: Mapped[str | None]
    cosigned_at: Mapped[int | None]
    witness_name: Mapped[str | None]


class Bundle(Base):
    __tablename__ = "peer_bundles"
    site_id: Mapped[str] = mapped_column(primary_key=True)
    log_id: Mapped[int] = mapped_column(primary_key=True)
    seq: Mapped[int] = mapped_column(primary_key=True)
    partner_id: Mapped[str]
    appliance_id: Mapped[str]
    bundle_id: Mapped[str | None]
    bundle_type: Mapped[str | None]
    bundle_hash: Mapped[bytes]
    payload: Mapped[bytes | None]
    missing_reason: Mapped[str | None]
    host_id: Mapped[str | None]
    check_id: Mapped[str | None]
    hipaa_controls: Mapped[list[str] | None] = mapped_column(JSONB(none_as_null=True))
    clock: Mapped[str | None]
    generated_at: Mapped[datetime | None]


class Order(Base):
    __tablename__ = "orders"
    site_id: Mapped[str] = mapped_column(primary_key=True)
    id: Mapped[str] = mapped_column(primary_key=True)
    appliance_id: Mapped[str]
    status: Mapped[str]
    expires_at: Mapped[datetime]
    envelope: Mapped[dict[str, Any] | None]


class Incident(Base):
    __tablename__ = "incidents"
    site_id: Mapped[str] = mapped_column(primary_key=True)
    id: Mapped[str] = mapped_column(primary_key=True)
    partner_id: Mapped[str]
    appliance_id: Mapped[str]
    host_id: Mapped[str]
    incident_type: Mapped[str]
    severity: Mapped[str]
    raw_data: Mapped[dict[str, Any]]
    pattern_signature: Mapped[str]
    occurrences: Mapped[int]
    created_at: Mapped[datetime]
    last_seen_at: Mapped[datetime]
    escalated_at: Mapped[datetime | None]
    resolved_at: Mapped[datetime | None]
    resolution_level: Mapped[str | None]
    resolution_action: Mapped[str | None]
    outcome: Mapped[str | None]
    resolution_time_ms: Mapped[int | None]
    acknowledged_at: Mapped[datetime | None]
    acknowledged_by: Mapped[str | None]
    closed_by_hand_at: Mapped[datetime | None]
    closed_by_hand_by: Mapped[str | None]
    hand_revision: Mapped[int]


class ApiKey(Base):
    __tablename__ = "api_keys"
    partner_id: Mapped[str] = mapped_column(primary_key=True)
    id: Mapped[str] = mapped_column(primary_key=True)
    key_hash: Mapped[str]
    role: Mapped[str]
    expires_at: Mapped[datetime]
    revoked_at: Mapped[datetime | None]


class Said(BaseModel):
    version: str
    hostname: str
    sent_at_ms: int
    clock: str
    epoch: str | None = None
    size: int = 0
    waiting: int = 0
    waiting_bytes: int = 0
    oldest_at_ms: int | None = None
    alarms: list[str] = []


class Answer(BaseModel):
    server_at_ms: int
    head_size: int
    policy_etag: str | None
    orders_waiting: bool
    next_checkin_s: int


class Head(BaseModel):
    epoch: str
    size: int
    receipt: str


class Shown(BaseModel):
    model_config = {"from_attributes": True}
    site_id: str
    id: str
    appliance_id: str
    host_id: str
    incident_type: str
    severity: str
    pattern_signature: str
    reason: str = ""
    occurrences: int
    created_at: datetime
    last_seen_at: datetime
    escalated_at: datetime | None
    resolved_at: datetime | None
    resolution_level: str | None
    resolution_action: str | None
    outcome: str | None
    resolution_time_ms: int | None
    acknowledged_at: datetime | None
    acknowledged_by: str | None
    closed_by_hand_at: datetime | None
    closed_by_hand_by: str | None
    hand_revision: int


class Listing(BaseModel):
    items: list[Shown]
    total: int | None


async def session() -> AsyncIterator[AsyncSession]:
    async with SESSIONS() as opened:
        yield opened


async def device(authorization: Annotated[str, Header()]) -> Device:
    found = tokens.verify(TOKEN_KEY, authorization.removeprefix("Bearer "), time.time())
    if found is None:
        raise HTTPException(401)
    return found


Session = Annotated[AsyncSession, Depends(session)]
Caller = Annotated[Device, Depends(device)]


@app.get("/up")
async def up() -> dict[str, bool]:
    return {"ok": True}


@app.post("/orm/checkin")
async def check_in_orm(said: Said, who: Caller, db: Session) -> Answer:
    one = await db.get(Appliance, (who.site_id, who.appliance_id))
    if one is None or one.revoked_at is not None:
        raise HTTPException(401)
    for name, value in _columns(said).items():
        setattr(one, name, value)
    one.is_online = True
    size = await db.scalar(select(EvidenceLog.size).filter_by(**_log_of(who, said.epoch)))
    waiting = False
    if one.orders_until is not None and one.orders_until > datetime.now(UTC):
        waiting = bool(await db.scalar(select(exists().where(*_waiting(who)))))
    await db.commit()
    return _answer(size, one.policy_version, waiting)


CHECK_IN = (
    update(Appliance.__table__)
    .where(
        Appliance.site_id == bindparam("the_site"), Appliance.id == bindparam("the_id"), Appliance.revoked_at.is_(None)
    )
    .values({name: bindparam(name) for name in (
        "version", "hostname", "last_checkin", "clock", "clock_offset_ms", "epoch", "log_size", "waiting",
        "waiting_bytes", "oldest_at", "alarms", "is_online",
    )})
    .returning(Appliance.policy_version, Appliance.orders_until > func.now())
)  # fmt: skip
SIZE = select(EvidenceLog.__table__.c.size).where(
    EvidenceLog.site_id == bindparam("the_site"),
    EvidenceLog.appliance_id == bindparam("the_id"),
    EvidenceLog.epoch == bindparam("the_epoch"),
)


@app.post("/core/checkin")
async def check_in_core(said: Said, who: Caller) -> Answer:
    place = {"the_site": who.site_id, "the_id": who.appliance_id}
    async with ENGINE.begin() as conn:
        row = (await conn.execute(CHECK_IN, _columns(said) | place | {"is_online": True})).first()
        if row is None:
            raise HTTPException(401)
        size = (await conn.execute(SIZE, place | {"the_epoch": said.epoch})).scalar()
        waiting = bool(row[1]) and bool((await conn.execute(select(exists().where(*_waiting(who))))).scalar())
    return _answer(size, row[0], waiting)


@app.post("/{way}/{epoch}/entries")
async def append(way: str, epoch: str, request: Request, who: Caller, db: Session) -> Head:
    said = batch.read(gzip.decompress(await request.body()))
    one = await db.get(Appliance, (who.site_id, who.appliance_id))
    if one is None or one.revoked_at is not None:
        raise HTTPException(401)
    row = await db.scalar(select(EvidenceLog).filter_by(**_log_of(who, epoch)).with_for_update())
    if row is None:
        origin = str(notes.Origin(SERVER_KEYS.server, who.appliance_id, epoch))
        more = {"partner_id": one.partner_id, "origin": origin, "public_key": one.public_key}
        row = EvidenceLog(**_log_of(who, epoch), **more)
        db.add(row)
        await db.flush()
    step = witness.examine(_log(row), said, [], SERVER_KEYS.witnesses)
    if step is not None:
        lines = [_bundle(row, line) for line in step.lines]
        if way == "orm":
            db.add_all([Bundle(**line) for line in lines])
        else:
            await db.execute(insert(Bundle), lines)
        _advance(row, step)
    await db.commit()
    return Head(
        epoch=epoch, size=row.size, receipt=SERVER_KEYS.cosign(row.checkpoint, row.witness_name, row.cosigned_at)
    )


@app.get("/orm/incidents")
async def list_incidents(authorization: Annotated[str, Header()], db: Session, limit: int = 50) -> Listing:
    digest = hashlib.sha256(authorization.removeprefix("Bearer ").encode()).hexdigest()
    key = await db.scalar(select(ApiKey).where(ApiKey.key_hash == digest, ApiKey.expires_at > func.now()))
    if key is None or key.revoked_at is not None:
        raise HTTPException(401)
    ours = Incident.partner_id == key.partner_id
    rows = await db.scalars(
        select(Incident).where(ours).order_by(Incident.created_at.desc(), Incident.id.desc()).limit(limit)
    )
    items = [Shown.model_validate(row).model_copy(update={"reason": row.raw_data.get("reason", "")}) for row in rows]
    return Listing(items=items, total=None)


def _columns(said: Said) -> dict[str, Any]:
    oldest = datetime.fromtimestamp(said.oldest_at_ms / 1000, UTC) if said.oldest_at_ms is not None else None
    return {
        "version": said.version, "hostname": said.hostname, "last_checkin": datetime.now(UTC), "clock": said.clock,
        "clock_offset_ms": said.sent_at_ms - time.time_ns() // 1_000_000, "epoch": said.epoch, "log_size": said.size,
        "waiting": said.waiting, "waiting_bytes": said.waiting_bytes, "oldest_at": oldest, "alarms": said.alarms,
    }  # fmt: skip


def _answer(size: int | None, policy: int | None, waiting: bool) -> Answer:
    etag = None if policy is None else str(policy)
    now = time.time_ns() // 1_000_000
    return Answer(server_at_ms=now, head_size=size or 0, policy_etag=etag, orders_waiting=waiting, next_checkin_s=60)


def _waiting(who: Device) -> tuple[Any, ...]:
    return (
        Order.site_id == who.site_id,
        Order.appliance_id == who.appliance_id,
        Order.envelope.is_not(None),
        Order.status.in_(("pending", "acknowledged")),
        Order.expires_at > func.now(),
    )


def _log_of(who: Device, epoch: str | None) -> dict[str, Any]:
    return {"site_id": who.site_id, "appliance_id": who.appliance_id, "epoch": epoch}


def _log(row: EvidenceLog) -> Log:
    ranges = [row.compact_range[i : i + 32] for i in range(0, len(row.compact_range), 32)]
    place = (row.id, row.epoch, row.origin, row.public_key, row.size)
    return Log(*place, row.last_leaf, ranges, row.checkpoint, row.cosigned_at, row.witness_name)


def _advance(row: EvidenceLog, step: Step) -> None:
    row.size, row.last_leaf, row.compact_range = step.size, step.lines[-1].leaf, b"".join(step.compact)
    row.checkpoint, row.cosigned_at, row.witness_name = step.checkpoint, int(time.time()), SERVER_KEYS.witness.name


def _bundle(row: EvidenceLog, line: Line) -> dict[str, Any]:
    entry = line.entry
    assert entry is not None
    return {
        "site_id": row.site_id, "log_id": row.id, "seq": line.seq, "partner_id": row.partner_id,
        "appliance_id": row.appliance_id, "bundle_id": entry.bundle_id, "bundle_type": entry.kind,
        "bundle_hash": line.leaf, "payload": entry.payload, "missing_reason": line.missing_reason,
        "host_id": entry.body.get("host"), "check_id": entry.body.get("check"),
        "hipaa_controls": entry.body.get("hipaa_controls"), "clock": entry.clock,
        "generated_at": datetime.fromtimestamp(entry.at / 1000, UTC),
    }  # fmt: skip


if __name__ == "__main__":
    uvicorn.run(app, port=int(sys.argv[2]), loop="uvloop", http="httptools", log_config=None, timeout_keep_alive=75)
