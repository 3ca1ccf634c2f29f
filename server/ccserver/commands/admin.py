"""The first people of the platform and of a partner, and the rescue of one who is locked out."""

import secrets
from pathlib import Path

import click

from ccserver import auth
from ccserver.commands.calling import AsJson, actor, read_password, show, with_database
from ccserver.errors import NotFoundError
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


@command.command("rescue")
@click.argument("login")
@click.option("--password-file", type=click.Path(path_type=Path), help="Read the password here; by default a new one.")
@AsJson
def admin_rescue(login: str, password_file: Path | None, as_json: bool) -> None:
    """Let an admin or owner in again who lost everything: a new password, no second factor, no lock, no session."""
    password = read_password(password_file) if password_file else secrets.token_urlsafe(15)
    password_hash, wanted = auth.hash_password(password), login.strip().lower()

    async def run(db: Database) -> User:
        async with db.platform() as platform:
            user = await users.find_anywhere(platform, wanted)
        if user is None or user.role not in (Role.PLATFORM_ADMIN, Role.OWNER):
            raise NotFoundError(f"There is no admin or owner {wanted}: `ccserver user reset` is for everybody else.")
        async with db.partner(user.partner_id) as scope:
            await users.enable(scope, user.id)
            await users.drop_second_factor(scope, user.id)
            await users.set_password(scope, user.id, password_hash)
            await audit_log.append(scope, Act(actor(), "admin.rescue", f"user:{user.id}", {"login": user.login}))
        return user

    user: User = with_database(run)
    shown = {"login": user.login, "role": user.role} | ({} if password_file else {"password": password})
    show(shown, as_json, "\n".join(f"{name}: {value}" for name, value in shown.items()))
