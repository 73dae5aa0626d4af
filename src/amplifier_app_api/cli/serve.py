"""`amplifier-api serve`."""

import asyncio
import gc
import logging
import os
import socket
from typing import Annotated

import typer

from amplifier_app_api.cli.options import Data, DatabaseUrl, refuse, settings_from
from amplifier_app_api.errors import AppError
from amplifier_app_api.observability.logs import configure_logging
from amplifier_app_api.settings import Settings, unknown_variables

logger = logging.getLogger(__name__)

OPEN_FILES = 65_536
"""How many files and sockets the server asks to have open at once."""


def serve(
    host: Annotated[str | None, typer.Option(help="Address to listen on (AMPLIFIER_HOST; 127.0.0.1)")] = None,
    port: Annotated[
        int | None, typer.Option(min=0, max=65535, help="Port to listen on, 0 for any (AMPLIFIER_PORT; 8765)")
    ] = None,
    data: Data = None,
    database_url: DatabaseUrl = None,
    log_level: Annotated[
        str | None, typer.Option(help="debug, info, warning or error (AMPLIFIER_LOG_LEVEL; info)")
    ] = None,
    insecure_bind: Annotated[
        bool,
        typer.Option(
            "--insecure-bind",
            help="Listen on an address that other machines reach. Nobody is asked who they are: "
            "only behind something that does ask.",
        ),
    ] = False,
) -> None:
    """Serve the HTTP API until a signal ends it."""
    settings = settings_from(host=host, port=port, data_dir=data, database_url=database_url, log_level=log_level)
    if not settings.on_loopback and not insecure_bind:
        refuse(
            f"{settings.host} can be reached from other machines and this server asks nobody who they are: "
            "listen on 127.0.0.1, or say --insecure-bind if something in front of it does ask"
        )
    configure_logging(settings.log_level, settings.log_format)
    for sentence in unknown_variables(os.environ):
        logger.warning(sentence)
    _allow_many_files()
    _make_folder(settings)
    listener = _listen(settings)
    try:
        _run(settings, listener)
    except KeyboardInterrupt:
        raise typer.Exit(130) from None
    finally:
        listener.close()


def _allow_many_files() -> None:
    """Every stream is a socket and every fetched source in use a lock: the usual 1024 are too few."""
    try:
        import resource
    except ImportError:  # not on every system
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = OPEN_FILES if hard == resource.RLIM_INFINITY else min(OPEN_FILES, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def _make_folder(settings: Settings) -> None:
    home = settings.data_dir / "home"
    try:
        settings.data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        home.mkdir(mode=0o700, exist_ok=True)
    except OSError as problem:
        refuse(f"the data folder {settings.data_dir} cannot be made: {problem.strerror}")
    # Modules keep state below ~ that every session of the process shares; it must not be that of whoever starts
    # the server, and everything a server writes lies below its data folder.
    os.environ["HOME"] = str(home)


def _listen(settings: Settings) -> socket.socket:
    from amplifier_app_api.cli.server import listen

    try:
        return listen(settings.host, settings.port)
    except OSError as problem:
        # A name that nobody knows has numbers of its own; the other sentence would tell the address twice.
        reason = problem.strerror
        if problem.errno is not None and not isinstance(problem, socket.gaierror):
            reason = os.strerror(problem.errno)
        refuse(f"cannot listen on {settings.host} port {settings.port}: {reason}")


def _run(settings: Settings, listener: socket.socket) -> None:
    from uvicorn.loops.auto import auto_loop_factory

    from amplifier_app_api.storage.address import InvalidDatabaseAddress

    try:
        with asyncio.Runner(loop_factory=auto_loop_factory()) as runner:
            runner.run(_serve(settings, listener))
    except AppError as problem:
        refuse(problem.detail)
    except InvalidDatabaseAddress as problem:
        refuse(f"AMPLIFIER_DATABASE_URL: {problem}")


async def _serve(settings: Settings, listener: socket.socket) -> None:
    from amplifier_app_api.app import create_app
    from amplifier_app_api.cli.server import Server, server_config
    from amplifier_app_api.services import open_services

    name = f"[{settings.host}]" if ":" in settings.host else settings.host
    address = f"http://{name}:{listener.getsockname()[1]}"

    def say_ready() -> None:
        typer.echo(f"amplifier-api is ready on {address} (data in {settings.data_dir})")

    async with open_services(settings) as services:
        # What was made up to here stays for good: the collector need not walk through it again and again, which
        # stops every stream for tens of milliseconds.
        gc.collect()
        gc.freeze()
        config = server_config(create_app(services=services), settings)
        await Server(config, services, when_ready=say_ready).serve(sockets=[listener])
