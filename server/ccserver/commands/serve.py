"""Serve."""

import os
from pathlib import Path

import click

from ccserver import config, serving
from ccserver.commands.calling import database

_File = click.Path(path_type=Path)


@click.command("serve")
@click.option("--tls-cert", type=_File, help="The certificate with its chain, PEM.  [default: CCSERVER_TLS_CERT]")
@click.option("--tls-key", type=_File, help="Its private key, PEM.  [default: CCSERVER_TLS_KEY]")
def command(tls_cert: Path | None, tls_key: Path | None) -> None:
    """Serve the agents' API and the dashboard until SIGINT or SIGTERM; SIGHUP takes a new certificate."""
    given = {"CCSERVER_TLS_CERT": tls_cert, "CCSERVER_TLS_KEY": tls_key}
    settings = config.from_environ({**os.environ, **{name: str(path) for name, path in given.items() if path}})
    shown = serving.certificate(settings)
    with database(settings) as target:
        serving.run(settings, target.server, shown)
