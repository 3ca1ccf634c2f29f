"""People of a partner, looked after on the host."""

import contextlib
from collections.abc import Awaitable, Callable
from dataclasses import asdict

import click

from ccserver import invitations, ownership
from ccserver.commands import reaching
from ccserver.commands.calling import LIST_LIMIT, AsJson, actor, current, show, with_database
from ccserver.commands.reaching import Consent, DryRun
from ccserver.errors import NotFoundError
from ccserver.listing import START, Page
from ccserver.queries import audit_log, users
from ccserver.queries.audit_log import Act
from ccserver.queries.users import Account, User
from ccserver.scope import Database, PartnerScope
from ccshared import ids
from ccshared.vocabulary import Role

_ROLES = [str(role) for role in Role if role is not Role.PLATFORM_ADMIN]


@click.group("user")
def command() -> None:
    """People of a partner. The platform's own are made by `ccserver admin`."""


@command.command("list")
@click.option("--partner", "partner_id", required=True)
@AsJson
def list_users(partner_id: str, as_json: bool) -> None:
    """List a partner's newest people, with those who are disabled."""

    async def act(db: Database) -> list[Account]:
        async with db.partner(partner_id) as scope:
            return await users.newest(scope, Page(LIST_LIMIT, 0, *START))

    found: list[Account] = with_database(act)
    show([asdict(row) for row in found], as_json, "\n".join(_line(row) for row in found) or "nobody yet")


@command.command("create")
@click.argument("login")
@click.option("--partner", "partner_id", required=True)
@click.option("--role", required=True, type=click.Choice(_ROLES))
@click.option("--site", "site_ids", multiple=True, help="A site that an auditor may read; may be given again.")
@AsJson
def create(login: str, partner_id: str, role: str, site_ids: tuple[str, ...], as_json: bool) -> None:
    """Invite somebody: prints a one-time link, good for 72 hours, by which they choose a password."""
    _check_sites(role, site_ids)
    user = User(partner_id, ids.new_id(), _login(login), role)

    async def act(db: Database) -> str:
        async with db.partner(partner_id) as scope:
            return await invitations.invite(scope, actor(), user, sorted(set(site_ids)))

    _show_link(user, with_database(act), as_json)


@command.command("disable")
@click.argument("login")
@reaching.destroys
@AsJson
def disable(login: str, yes: bool, dry_run: bool, as_json: bool) -> None:
    """Keep somebody from signing in; their sessions end at once. The last owner of a partner stays."""
    consent = Consent(yes, dry_run)
    consent.ask(f"disable {_login(login)}")

    async def act(scope: PartnerScope, user: User) -> None:
        await ownership.disable(scope, user.id)
        await audit_log.append(scope, Act(actor(), "user.disable", f"user:{user.id}", {"login": user.login}))
        consent.settle()

    with_database(lambda db: _tried(db, login, act))
    show({"login": _login(login), "dry_run": dry_run}, as_json, consent.say(f"{_login(login)} is disabled"))


@command.command("enable")
@click.argument("login")
@AsJson
def enable(login: str, as_json: bool) -> None:
    """Let somebody sign in again who was disabled."""

    async def act(scope: PartnerScope, user: User) -> None:
        await users.enable(scope, user.id)
        await audit_log.append(scope, Act(actor(), "user.enable", f"user:{user.id}", {"login": user.login}))

    user, _ = _with_user(login, act)
    show({"user_id": user.id}, as_json, f"{user.login} may sign in")


@command.command("role")
@click.argument("login")
@click.argument("role", type=click.Choice(_ROLES))
@click.option("--site", "site_ids", multiple=True, help="A site that an auditor may read; may be given again.")
@AsJson
def change_role(login: str, role: str, site_ids: tuple[str, ...], as_json: bool) -> None:
    """Give somebody another role; the last owner of a partner stays one."""
    _check_sites(role, site_ids)

    async def act(scope: PartnerScope, user: User) -> None:
        before = await users.account(scope, user.id)
        if before is None or user.role == Role.PLATFORM_ADMIN:
            raise NotFoundError(f"{user.login} is the platform's own: `ccserver admin` is for those.")
        new = ownership.NewRole(role, sorted(set(site_ids)), before.revision)
        await ownership.give_role(scope, actor(), user.id, new)

    user, _ = _with_user(login, act)
    show({"user_id": user.id, "role": role}, as_json, f"{user.login} is {role}")


def _check_sites(role: str, site_ids: tuple[str, ...]) -> None:
    if (role == Role.AUDITOR) != bool(site_ids):
        raise click.BadParameter("an auditor has at least one, and nobody else has any", param_hint="--site")


@command.command("reset")
@click.argument("login")
@click.option("--second-factor", is_flag=True, help="Void the authenticator and recovery codes too.")
@AsJson
def reset(login: str, second_factor: bool, as_json: bool) -> None:
    """Print a one-time link by which somebody chooses another password."""

    async def act(scope: PartnerScope, user: User) -> str:
        return await invitations.reset(scope, actor(), user, second_factor=second_factor)

    user, token = _with_user(login, act)
    _show_link(user, str(token), as_json)


Acting = Callable[[PartnerScope, User], Awaitable[str | None]]


def _with_user(login: str, act: Acting) -> tuple[User, str | None]:
    found: tuple[User, str | None] = with_database(lambda db: _with(db, login, act))
    return found


async def _with(db: Database, login: str, act: Acting) -> tuple[User, str | None]:
    async with db.platform() as platform:
        user = await users.find_anywhere(platform, _login(login))
    if user is None:
        raise NotFoundError(f"There is no user {_login(login)}.")
    async with db.partner(user.partner_id) as scope:
        return user, await act(scope, user)


async def _tried(db: Database, login: str, act: Acting) -> None:
    with contextlib.suppress(DryRun):
        await _with(db, login, act)


def _login(given: str) -> str:
    login = given.strip().lower()
    if not 1 <= len(login) <= 200 or "\x00" in login:
        raise click.BadParameter("1 to 200 letters", param_hint="LOGIN")
    return login


def _show_link(user: User, token: str, as_json: bool) -> None:
    link = f"{current().public_url}/welcome/{token}"
    text = f"{link}\n\nFor {user.login}, once, within {invitations.LINK_HOURS} h."
    show({"user_id": user.id, "link": link}, as_json, text)


def _line(row: Account) -> str:
    state = "disabled" if row.disabled_at else "invited" if row.invited else "active"
    return f"{row.login}  {row.role}  {state}  {'second factor' if row.second_factor else 'password only'}"
