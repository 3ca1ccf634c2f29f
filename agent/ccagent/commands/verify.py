"""`cc-agent verify`: the own log against the own receipts."""

import sys
from typing import Any

import click

from ccagent.commands.calling import Call, answer, print_json, print_table


@click.command("verify")
@click.option("--json", "as_json", is_flag=True, help="For programs.")
@click.option("--trust", "trusted", multiple=True, help="A device key's fingerprint that was compared by hand.")
@click.pass_obj
def command(call: Call, as_json: bool, trusted: tuple[str, ...]) -> None:
    """Verify the own log against the receipts that are held for it; works with the network down.

    A log is vouched for when its key goes back to one that is trusted, each named by the one before; a key that no
    earlier one named, as after a new installation, is unvouched until its fingerprint was compared.

    Exit code 0 when every log is whole and every receipt is over its entries, 1 when not.
    """
    told = answer(call, "verify")
    for log in told["logs"]:
        log["vouched"] = log["key_root"] in trusted
    if as_json:
        print_json(told)
    else:
        print_table([("epoch", "entries", "receipts", ""), *map(_row, told["logs"])])
    sys.exit(0 if told["whole"] else 1)


def _row(log: dict[str, Any]) -> tuple[str, ...]:
    said = log["trouble"] or "whole"
    if log["carried_from"] is not None:
        said += f", ended; carried over from entry {log['carried_from']} on"
    said += "; vouched for" if log["vouched"] else f"; unvouched, its key goes back to {log['key_root']}"
    return (log["epoch"], str(log["size"]), str(log["receipts"]), said)
