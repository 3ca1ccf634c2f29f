"""API keys, made on the host."""

from dataclasses import asdict
from datetime import UTC, datetime, timedelta

import click

from ccserver import auth
from ccserver.commands import reaching
from ccserver.commands.calling import LIST_LIMIT, AsJson, a_name, actor, show, with_database
from ccserver.commands.reaching import Consent
from ccserver.listing import START, Page
from ccserver.queries import api_keys, audit_log
from ccserver.queries.api_keys import ApiKey, NewKey
from ccserver.queries.audit_log import Act
from ccserver.scope import PLATFORM, Database
from ccshared import ids
from ccshared.canonical import Json
from ccshared.vocabulary import Role

_ROLES = [str(role) for role in Role if role is not Role.AUDITOR]
Partner = click.option("--partner", "partner_id", required=True, help="Whose keys; `platform` for the platform's own.")


@click.group("key")
def command() -> None:
    """API keys of programs: shown once, kept as hashes, always expiring."""


@command.command("create")
@click.argument("name")
@Partner
@click.option("--role", required=True, type=click.Choice(_ROLES))
@click.option("--days", required=True, type=click.IntRange(1, 366))
@AsJson
def create(name: str, partner_id: str, role: str, days: int, as_json: bool) -> None:
    """Make an API key and print it, this once."""
    if (partner_id == PLATFORM) != (role == Role.PLATFORM_ADMIN):
        raise click.BadParameter("platform_admin goes with --partner platform, and nothing else does")
    value, key_hash = auth.new_key()
    expires = datetime.now(UTC) + timedelta(days=days)
    new = NewKey(ids.new_id(), key_hash, a_name(name), role, actor(), expires)

    async def act(db: Database) -> None:
        async with db.platform() as scope:
            await api_keys.insert(scope, partner_id, new)
            detail: dict[str, Json] = {"name": new.name, "role": role, "days": days}
            await audit_log.append(scope, Act(actor(), "api_key.create", f"key:{new.id}", detail), partner_id)

    with_database(act)
    shown = {"id": new.id, "key": value, "role": role, "expires_at": expires}
    show(shown, as_json, f"{value}\n\nKey {new.id}, {role}, until {expires:%Y-%m-%d %H:%M} UTC. It is not shown again.")


@command.command("list")
@Partner
@AsJson
def list_keys(partner_id: str, as_json: bool) -> None:
    """List a partner's newest keys, with those that no longer work."""

    async def act(db: Database) -> list[ApiKey]:
        async with db.platform() as scope:
            return await api_keys.newest(scope, partner_id, Page(LIST_LIMIT, 0, *START))

    found: list[ApiKey] = with_database(act)
    show([asdict(row) for row in found], as_json, "\n".join(_line(row) for row in found) or "no keys yet")


@command.command("revoke")
@click.argument("key_id")
@Partner
@reaching.destroys
@AsJson
def revoke(key_id: str, partner_id: str, yes: bool, dry_run: bool, as_json: bool) -> None:
    """Revoke a key at once and for good."""
    consent = Consent(yes, dry_run)
    consent.ask(f"revoke key {key_id}, for good")

    async def act(db: Database) -> ApiKey:
        async with reaching.keeping(db.platform(), consent) as scope:
            found = await api_keys.revoke(scope, partner_id, key_id)
            await audit_log.append(scope, Act(actor(), "api_key.revoke", f"key:{key_id}", {}), partner_id)
        return found

    found: ApiKey = with_database(act)
    show(asdict(found), as_json, consent.say(f"key {key_id} is revoked"))


def _line(row: ApiKey) -> str:
    state = "revoked" if row.revoked_at else f"until {row.expires_at:%Y-%m-%d}"
    return f"{row.id}  {row.role}  {state}  {row.name}"
