"""What commands on a tenant's things share: whose a site is, and consent to what destroys, or a dry run of it."""

import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass
from typing import Any

import click

from ccserver.commands.calling import LIST_LIMIT, actor
from ccserver.errors import NotFoundError
from ccserver.listing import START, Page
from ccserver.queries import audit_log, sites
from ccserver.queries.audit_log import Act
from ccserver.scope import Database, PartnerScope, SiteScope
from ccshared.canonical import Json

NEWEST = Page(LIST_LIMIT, 0, *START)
Site = click.option("--site", "site_id", required=True, help="The site; `ccserver site list` shows them.")
Partner = click.option("--partner", "partner_id", required=True, help="Whose; `ccserver partner list` shows them.")


class DryRun(Exception):  # noqa: N818  nothing is wrong: it takes back what was tried
    """Everything went through, and nothing of it is kept."""


@dataclass(frozen=True)
class Consent:
    """Whether what destroys is done, only tried (`dry_run`), or asked for first."""

    yes: bool
    dry_run: bool

    def ask(self, what: str) -> None:
        """Go on when it was said or is only tried; else ask a person, and refuse a program."""
        if self.yes or self.dry_run:
            return
        if not sys.stdin.isatty():
            raise click.UsageError(f"This would {what}: say --yes, or try it with --dry-run.")
        click.confirm(f"{what[:1].upper()}{what[1:]}?", abort=True)

    def settle(self) -> None:
        """Say as the last thing in a scope whether what was done is kept."""
        if self.dry_run:
            raise DryRun

    def say(self, done: str) -> str:
        """Return what was done, or would be."""
        return f"would be done: {done}" if self.dry_run else done


def destroys(command: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command --yes and --dry-run; it takes them as `yes` and `dry_run`."""
    command = click.option("--dry-run", is_flag=True, help="Try it, say what would be done, and keep nothing.")(command)
    return click.option("--yes", is_flag=True, help="Do it without asking.")(command)


async def owner_of(db: Database, site_id: str) -> str:
    """Return the partner of a site; NotFoundError when there is no such site."""
    async with db.platform() as platform:
        found = await sites.find_anywhere(platform, site_id)
    if found is None:
        raise NotFoundError(f"There is no site {site_id}: `ccserver site list` shows them.")
    return found.partner_id


@asynccontextmanager
async def site_scope(db: Database, site_id: str) -> AsyncIterator[SiteScope]:
    """Open the scope of a site by its id alone; NotFoundError when there is none."""
    async with db.site(await owner_of(db, site_id), site_id) as scope:
        yield scope


@asynccontextmanager
async def keeping(opened: Any, consent: Consent) -> AsyncIterator[Any]:
    """Open a scope whose changes a dry run takes back."""
    try:
        async with opened as scope:
            yield scope
            consent.settle()
    except DryRun:
        return


async def note(scope: PartnerScope | SiteScope, action: str, target: str, **detail: Json) -> None:
    """Append to the audit log that it was done on the host: a transaction's last statement."""
    await audit_log.append(scope, Act(actor(), action, target, detail))


def values(rows: list[Any]) -> list[dict[str, Any]]:
    """Return rows as JSON objects."""
    return [asdict(row) for row in rows]
