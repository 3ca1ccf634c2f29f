"""`cc-agent support-bundle`: what support needs to know, in one file, without personal data and without secrets."""

import os
import time
from pathlib import Path
from typing import Any

import click

from ccagent import config, support
from ccagent.ask import NoAgentError, NoAnswerError, ask
from ccagent.commands.calling import Call, answer
from ccagent.places import BadConfigError
from ccshared import phi


@click.command("support-bundle")
@click.option(
    "--output",
    type=click.Path(path_type=Path),
    default=None,
    help="The file to write; one that is there is not touched.  [default: cc-agent-support-<time>.tar.gz]",
)
@click.pass_obj
def command(call: Call, output: Path | None) -> None:
    """Write what support needs to know into a file (tar.gz), without personal data or secrets.

    Works with no network, and while the agent runs. Look into it before you send it.
    """
    path = output or Path(time.strftime("cc-agent-support-%Y%m%dT%H%M%SZ.tar.gz", time.gmtime()))
    parts = {f"{name}.json": _told(call, name) for name in support.QUESTIONS}
    parts |= {"log.json": _log(call), "config.json": _settings(call), "versions.json": support.versions()}
    try:
        packed = support.pack(parts)
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(packed)
    except OSError as error:
        raise click.ClickException(
            f"{path} cannot be written ({error.strerror}): name another with --output"
        ) from error
    except phi.ScrubError as error:
        raise click.ClickException("nothing was written: personal data could not be told apart; report this") from error
    click.echo(f"{path}: {', '.join(parts)}")


def _told(call: Call, question: str) -> Any:
    """Return an answer, or in words why there is none: a broken appliance needs support most."""
    try:
        return answer(call, question)
    except click.ClickException as error:
        return {"error": error.message}


def _log(call: Call) -> Any:
    try:
        return ask(call.places, {"ask": "log"})
    except (NoAgentError, NoAnswerError) as error:
        return {"error": str(error), "lines": []}


def _settings(call: Call) -> Any:
    try:
        return config.load(call.config_file).model_dump(mode="json")
    except BadConfigError as error:
        return {"error": str(error)}
