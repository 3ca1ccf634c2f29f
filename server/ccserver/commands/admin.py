"""The first people of the platform and of a partner, and the rescue of one who is locked out."""

import secrets
from pathlib import Path

import click

from ccserver import auth
from ccserver.commands.calling import AsJson, actor, read_password, show, with_database
from ccserver.queries import audit_log, users
from ccserver.queries.audit_log import Act
from ccserver.queries.users import User
from ccserver.scope import PLATFORM, Database
from ccshared import ids
from ccshared.vocabulary import Role


@click.group("admin")
def command() -> None:
    """People, made on the server itself."""


@command.command("create")
@click.argument("login")
@click.option("--partner", "partner_id", help="Make an owner of this partner; by default the platform's admin.")
@click.option("--password-file", type=click.Path(path_type=Path), help="Read the password here; by default a new one.")
@AsJson
def admin_create(login: str, partner_id: str | None, password_file: Path | None, as_json: bool) -> None:
    """Add somebody who may do everything; a new password is printed once."""
    password = read_password(password_file) if password_file else secrets.token_urlsafe(15)
    role = Role.OWNER if partner_id else Role.PLATFORM_ADMIN
    user = User(partner_id or PLATFORM, ids.new_id(), login.strip().lower(), str(role))
    password_hash = auth.hash_password(password)

    async def run(db: Database) -> None:
        async with db.platform() as scope:
            await users.insert(scope, user, password_hash)
            act = Act(actor(), "user.create", f"user:{user.id}", {"login": user.login, "role": user.role})
            await audit_log.append(scope, act, user.partner_id)

    with_database(run)
    shown = {"login": user.login, "role": user.role} | ({} if password_file else {"password": password})
    show(shown, as_json, "\n".join(f"{name}: {value}" for name, value in shown.items()))
