"""The serving process: a database that is fit, a port that is ours, then uvicorn until a signal."""

import asyncio
import logging
import signal
import socket
from typing import Any

import uvicorn
import uvloop

from ccserver import app, catalogue, certificates, health, keys
from ccserver.certificates import Pair, Shown
from ccserver.config import Config
from ccserver.errors import CentralCommandError
from ccserver.queries import runbooks
from ccserver.scope import Database, open_pool
from ccshared import logs


class PortError(CentralCommandError):
    """The address cannot be listened on."""


def certificate(config: Config) -> Shown | None:
    """Return what connections are shown, None for plain http; BadConfigError or CertificateError if neither will do."""
    config.check_transport()
    return Shown(Pair(*config.tls, config.public_host)) if config.tls else None


def run(config: Config, database_url: str, shown: Shown | None = None) -> None:
    """Serve until SIGINT or SIGTERM; every reason not to start is raised before anything listens."""
    logs.start(config.log_format)
    server_keys = keys.load(config.key_file)
    asyncio.run(prepare(database_url))
    if config.metrics is not None and config.metrics_asked:
        _listen(*config.metrics, setting="CCSERVER_METRICS_LISTEN").close()
    listener = _listen(config.host, config.port, setting="CCSERVER_LISTEN")
    for number in (signal.SIGINT, signal.SIGTERM):  # uvicorn raises what it caught once more when it is done
        signal.signal(number, lambda *_: None)
    at, port = _at(listener)
    said = {
        "server": server_keys.server,
        "public_url": config.public_url,
        "address": at,
        "port": port,
        "tls": shown is not None,
    }
    logging.getLogger("ccserver").info("serving", extra={"fields": said})
    with listener, asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(_serve(_uvicorn(config, database_url), shown, listener))


def _uvicorn(config: Config, database_url: str) -> uvicorn.Config:
    return uvicorn.Config(
        app.make(config, database_url),
        http="httptools",
        ws="none",
        lifespan="on",
        log_config=None,
        access_log=False,
        proxy_headers=False,
        server_header=False,
        timeout_keep_alive=75,  # appliances come once a minute; a connection kept is a handshake saved
        timeout_graceful_shutdown=5,
    )


class Server(uvicorn.Server):
    """Uvicorn, which ends the streams of live pages before it waits for what is being answered."""

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Stop."""
        made: Any = self.config.app
        made.state.streams.end()
        await super().shutdown(sockets)


async def _serve(settings: uvicorn.Config, shown: Shown | None, listener: socket.socket) -> None:
    settings.load()
    settings.ssl = shown.context if shown else None
    async with certificates.reloading(shown):
        await Server(settings).serve(sockets=[listener])


async def check(database: Database) -> None:
    """Refuse an unfit database."""
    await health.check_database(database)


async def prepare(database_url: str) -> None:
    """Check the database, and let it list the runbooks of this release."""
    database = await open_pool(database_url, min_size=1, max_size=1)
    try:
        await check(database)
        async with database.platform() as scope:
            await runbooks.replace(scope, catalogue.load())
    finally:
        await database.close()


def _listen(host: str, port: int, *, setting: str) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
        listener.listen(2048)
    except OSError as error:
        listener.close()
        raise PortError(
            f"{host}:{port} cannot be listened on ({error.strerror}): set {setting} to another"
            " address, or stop what listens there."
        ) from error
    return listener


def _at(listener: socket.socket) -> tuple[str, int]:
    name = listener.getsockname()
    return str(name[0]), int(name[1])
