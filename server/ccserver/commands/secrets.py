"""Every secret of the server at once."""

from dataclasses import asdict

import click

from ccserver import keys, secret_rotation
from ccserver.commands import reaching
from ccserver.commands.calling import AsJson, actor, current, show, with_database
from ccserver.commands.reaching import Consent
from ccserver.scope import Database
from ccserver.secret_rotation import Rotated

_AFTER = (
    "Running servers took the new keys already; nothing needs a restart.",
    "Back up the key file again (`ccserver keys backup`). Former master keys stay in it: older backups need them.",
    "People sign in again; programs need new API keys; codes and links that were not used are made again.",
    "Not touched: passwords, device keys (`cc-agent rotate-key`), the database's passwords, TLS keys.",
)


@click.group("secrets")
def command() -> None:
    """Every secret that the server holds."""


@command.command("rotate")
@click.option(
    "--all", "everything", is_flag=True, required=True, help="Master key, signing keys, and all they protect."
)
@reaching.destroys
@AsJson
def rotate(everything: bool, yes: bool, dry_run: bool, as_json: bool) -> None:
    """Make a new master key and new signing keys, seal anew what is sealed, and void every credential.

    Access tokens and nonces of appliances are void at once: they get new ones by their device keys. Sessions, API keys,
    unused enrolment codes and links end. The new signing keys are announced by the ones of before.
    """
    consent, path = Consent(yes, dry_run), current().key_file
    before = keys.load(path)
    consent.ask("make every secret of this server anew, and sign everybody out")

    async def act(db: Database) -> Rotated:
        made = before if dry_run else keys.rotate_all(path)
        async with reaching.keeping(db.platform(), consent) as scope:
            return await secret_rotation.renew(scope, made, actor())

    done: Rotated = with_database(act)
    ended = ", ".join(f"{count} {name.replace('_', ' ')}" for name, count in asdict(done.voided).items())
    lines = [consent.say(f"new keys in {path}; {done.resealed} seals made anew; ended: {ended}")]
    lines += [f"opens with no key, and is lost: {each}" for each in done.unopened]
    show({**asdict(done), "dry_run": dry_run}, as_json, "\n".join([*lines, *(() if dry_run else _AFTER)]))
