"""What is read as root: this list, of what root's own settings name, and nothing that a request could say."""

import asyncio
import json
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from ccagent.checks import antivirus, backup, encryption, firewall, logging
from ccagent.config import ChecksSettings
from ccagent.host import Host, Output, ProgramMissingError

LIMIT_S = 60.0
MAX_COMPLAINT = 4096

Told = dict[str, Any]
Read = Callable[[Host, ChecksSettings], Awaitable[Told]]


class NotReadError(Exception):
    """What was asked for is not on the list, not configured, or cannot be read; the message says which."""


async def read(what: str, host: Host, settings: ChecksSettings) -> Told:
    """Return what stands for `what`: `ran`, programs with their output, or `text`. NotReadError when there is none."""
    if what not in LIST:
        raise NotReadError("not on the list of what is read")
    try:
        async with asyncio.timeout(LIMIT_S):
            return await LIST[what](host, settings)
    except TimeoutError as error:
        raise NotReadError(f"took longer than {LIMIT_S:g} s") from error
    except OSError as error:
        raise NotReadError(f"cannot be read ({error.strerror})") from error


async def _ran(host: Host, *argvs: Sequence[str], env: dict[str, str] | None = None) -> Told:
    return {"ran": [await _run(host, argv, env) for argv in argvs]}


async def _run(host: Host, argv: Sequence[str], env: dict[str, str] | None) -> Told:
    try:
        output = await host.run(argv, timeout_s=backup.LIST_S if env is not None else 20, env=env)
    except ProgramMissingError as error:
        return {"argv": list(argv), **_plain(Output(0, "", str(error))), "code": None}
    return {"argv": list(argv), **_plain(output)}


def _plain(output: Output) -> Told:
    return {
        "code": output.code,
        "stdout": output.stdout,
        "stderr": output.stderr[-MAX_COMPLAINT:],
        "timed_out": output.timed_out,
        "cut": output.cut,
    }


async def _nft(host: Host, settings: ChecksSettings) -> Told:
    del settings
    return await _ran(host, firewall.NFT)


async def _iptables(host: Host, settings: ChecksSettings) -> Told:
    del settings
    return await _ran(host, firewall.IPTABLES)


async def _ip6tables(host: Host, settings: ChecksSettings) -> Told:
    del settings
    return await _ran(host, firewall.IP6TABLES)


async def _lsblk(host: Host, settings: ChecksSettings) -> Told:
    del settings
    return await _ran(host, *encryption.LSBLK)


async def _cryptsetup(host: Host, settings: ChecksSettings) -> Told:
    try:
        return await _ran(host, *await encryption.commands(host, settings.encryption))
    except (encryption.NoDevicesError, ProgramMissingError) as error:
        raise NotReadError(f"block devices cannot be listed: {error}") from error


async def _restic(host: Host, settings: ChecksSettings) -> Told:
    if settings.backup.restic_repository is None:
        raise NotReadError("no restic repository is configured")
    return await _ran(host, backup.restic_command(settings.backup), env={})


async def _borg(host: Host, settings: ChecksSettings) -> Told:
    if settings.backup.borg_repository is None:
        raise NotReadError("no borg repository is configured")
    argv, env = backup.borg_command(settings.backup)
    return await _ran(host, argv, env=env)


async def _backup_status(host: Host, settings: ChecksSettings) -> Told:
    if settings.backup.status_file is None:
        raise NotReadError("no status file is configured")
    try:
        status = json.loads(backup.status_text(host, settings.backup))
    except (ValueError, RecursionError) as error:
        raise NotReadError("the status file is not JSON") from error
    # Only what the check asks for: who can change the directory could have put a link to another file there.
    told = {name: status.get(name) for name in backup.STATUS_FIELDS} if isinstance(status, dict) else {}
    return {"text": json.dumps({name: value for name, value in told.items() if isinstance(value, str | int | float)})}


async def _antivirus_binary(host: Host, settings: ChecksSettings) -> Told:
    digest = await antivirus.binary_digest(host, settings.antivirus)
    if digest is None:
        raise NotReadError(f"{settings.antivirus.binary} cannot be read")
    return {"text": digest}


async def _canary(host: Host, settings: ChecksSettings) -> Told:
    if settings.logging.canary_file is None:
        raise NotReadError("no canary file is configured")
    return {"text": logging.canary_lines(host, settings.logging)}


async def _canary_journal(host: Host, settings: ChecksSettings) -> Told:
    if settings.logging.canary_journal is None:
        raise NotReadError("no canary in the journal is configured")
    return await _ran(host, logging.journal_command(settings.logging.canary_journal))


LIST: dict[str, Read] = {
    "nft": _nft,
    "iptables": _iptables,
    "ip6tables": _ip6tables,
    "lsblk": _lsblk,
    "cryptsetup": _cryptsetup,
    "restic": _restic,
    "borg": _borg,
    "backup_status": _backup_status,
    "antivirus_binary": _antivirus_binary,
    "canary": _canary,
    "canary_journal": _canary_journal,
}
