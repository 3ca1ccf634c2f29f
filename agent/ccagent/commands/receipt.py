"""`cc-agent receipt`: the newest receipt, to be taken away by whoever verifies."""

import io

import click
import segno

from ccagent.commands.calling import Call, answer, print_json


@click.command("receipt")
@click.option("--json", "as_json", is_flag=True, help="For programs.")
@click.option("--qr", "as_qr", is_flag=True, help="As a QR code, to be photographed off the screen.")
@click.pass_obj
def command(call: Call, as_json: bool, as_qr: bool) -> None:
    """Print the newest receipt of the own log, exactly as it was signed; works with the network down.

    Keep it where the server cannot reach: an auditor gives it to the verifier, and nothing up to it can be missing.
    Exit code 1 when there is none yet.
    """
    told = answer(call, "receipt")
    if as_json:
        print_json(told)
    elif told["receipt"] is not None and as_qr:
        click.echo(qr(told["receipt"]))
    elif told["receipt"] is not None:
        click.echo(told["receipt"], nl=False)
    if told["receipt"] is None:
        raise click.ClickException("nothing is receipted yet: 'cc-agent status' says why")


def qr(receipt: str) -> str:
    """Return a receipt's bytes as a QR code of half blocks, which any camera reads back as the same text."""
    out = io.StringIO()
    segno.make(receipt.encode(), mode="byte", encoding="utf-8", error="l", micro=False).terminal(out, compact=True)
    return out.getvalue()
