"""`un serve`: serve the API until SIGTERM."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import json
import logging
import resource
import signal
import ssl
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import IO
from urllib.parse import urlsplit

import click

from unsandbox.cli.json_log import TEXT_FORMAT, JsonFormatter
from unsandbox.cli.keys import DATA_OPTION, open_keys
from unsandbox.engine import Engine, EngineConfig
from unsandbox.engine.accounts.secretbox import write_private
from unsandbox.engine.accounts.stored_keys import StoredKeys
from unsandbox.engine.backends import policies
from unsandbox.engine.config import ISOLATION_VARIABLE
from unsandbox.engine.jobs.rows import lost_result
from unsandbox.engine.store.database import open_database, private_file
from unsandbox.engine.store.sql import SqlStore
from unsandbox.errors import EngineError
from unsandbox.sandbox import SandboxUnavailable
from unsandbox.server import Server, ServerConfig
from unsandbox.server.call import SERVICE_DOMAIN
from unsandbox.server.config import TlsFiles
from unsandbox.server.e2b.listener import serve_e2b

logger = logging.getLogger("unsandbox.serve")


def _public_url(_ctx: click.Context, _param: click.Parameter, value: str | None) -> str:
    """Return the URL without a slash at its end; an empty text when none was given."""
    if value is None:
        return ""
    try:
        parts = urlsplit(value)
        fits = parts.scheme in {"http", "https"} and parts.hostname and (parts.port is None or parts.port > 0)
    except ValueError:
        fits = False
    if not fits or value.rstrip("/") != f"{parts.scheme}://{parts.netloc}" or "@" in parts.netloc:
        raise click.BadParameter(
            "name scheme and host, and a port where it is not the usual one: https://api.example.com"
        )
    return value.rstrip("/")


@click.command()
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option(
    "--port",
    type=click.IntRange(0, 65535),
    default=8787,
    show_default=True,
    help="Port to listen on; 0 picks a free one.",
)
@DATA_OPTION
@click.option("--tls-cert", type=click.Path(dir_okay=False, path_type=Path), help="Certificate chain (PEM).")
@click.option("--tls-key", type=click.Path(dir_okay=False, path_type=Path), help="Private key (PEM).")
@click.option(
    "--max-running",
    type=click.IntRange(0, 100_000),
    default=0,
    help="Maximum number of concurrent sandboxes; 0 means two per CPU, at least four.",
)
@click.option(
    "--concurrency",
    type=click.IntRange(1, 10_000_000),
    default=EngineConfig().concurrency_per_key,
    show_default=True,
    help="Jobs that one key may have queued or running.",
)
@click.option(
    "--isolation",
    type=click.Choice(policies()),
    default="auto",
    show_default=True,
    envvar=ISOLATION_VARIABLE,
    help="Minimum isolation of all sandboxes; 'hardened' and 'gvisor' require gVisor.",
)
@click.option(
    "--toolchains",
    help="Source of the sandboxes' /usr: 'host', a folder made by `un languages install`, or 'auto' (default).",
)
@click.option(
    "--max-body",
    type=click.IntRange(1, 65536),
    default=192,
    show_default=True,
    help="Largest request body in MiB.",
)
@click.option(
    "--blobs",
    envvar="UNSANDBOX_BLOBS",
    help="Where snapshots and images are stored: file:///folder, s3://bucket/prefix, gs://… or az://…, with "
    "credentials from the environment. Default: the data folder.",
)
@click.option(
    "--service-domain",
    default=SERVICE_DOMAIN,
    show_default=True,
    help="Services are reached at NAME.DOMAIN. DNS must resolve *.DOMAIN to this server.",
)
@click.option(
    "--api-host",
    "api_hosts",
    multiple=True,
    metavar="NAME",
    help="Host name of this API (repeatable). Services cannot use it or its subdomains as custom domains.",
)
@click.option(
    "--public-url",
    callback=_public_url,
    help="URL at which clients reach this server through a proxy, such as https://api.example.com. URLs of "
    "services and terminals get its scheme and port.",
)
@click.option(
    "--mcp",
    is_flag=True,
    help="Serve the Model Context Protocol at /mcp, with PUBLIC_KEY.SECRET_KEY as the bearer token.",
)
@click.option(
    "--mcp-host",
    "mcp_hosts",
    multiple=True,
    metavar="HOST",
    help="Accept MCP requests for this Host only (repeatable); NAME:* means any port. Default: any.",
)
@click.option(
    "--e2b-port",
    type=click.IntRange(0, 65535),
    metavar="PORT",
    help="Serve the clients of E2B on this port; 0 picks a free one. `un e2b` prints their variables.",
)
@click.option(
    "--watchdog",
    type=click.IntRange(0, 60_000),
    default=100,
    show_default=True,
    help="Milliseconds for which a callback may hold the event loop before it is logged; 0 turns this off.",
)
@click.option(
    "--log-level",
    type=click.Choice(["debug", "info", "warning", "error"]),
    default="info",
    show_default=True,
)
@click.option(
    "--log-format",
    type=click.Choice(["text", "json"]),
    default="text",
    show_default=True,
    help="Format of the log; json prints one object per line.",
)
def serve(
    host: str,
    port: int,
    data: Path,
    tls_cert: Path | None,
    tls_key: Path | None,
    max_running: int,
    concurrency: int,
    isolation: str,
    toolchains: str | None,
    max_body: int,
    blobs: str | None,
    service_domain: str,
    api_hosts: tuple[str, ...],
    public_url: str,
    mcp: bool,
    mcp_hosts: tuple[str, ...],
    e2b_port: int | None,
    watchdog: int,
    log_level: str,
    log_format: str,
) -> None:
    """Serve the API from this machine until SIGTERM.

    The first line on standard output is JSON with the member "url". The log goes to standard error. If the data
    folder has no key, one is created, and the log names the file that holds it.
    """
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter() if log_format == "json" else logging.Formatter(TEXT_FORMAT))
    logging.basicConfig(level=log_level.upper(), handlers=[handler])
    # Alembic logs every migration check at level INFO.
    logging.getLogger("alembic").setLevel(logging.WARNING)
    # The package logs the ids of sessions at level INFO.
    logging.getLogger("mcp").setLevel(logging.WARNING)
    public_hosts = [name for name in [urlsplit(public_url).hostname] if name]
    server_config = ServerConfig(
        host=host,
        port=port,
        tls=_tls_files(tls_cert, tls_key),
        body_bytes=max_body << 20,
        service_domain=service_domain,
        public_url=public_url,
        watchdog_s=watchdog / 1000 if watchdog > 0 else None,
    )
    engine_config = EngineConfig(
        max_running=max_running,
        concurrency_per_key=concurrency,
        isolation=isolation,
        toolchains=toolchains,
        reserved_domains=(host, service_domain, *api_hosts, *public_hosts),
    )
    folder = data.expanduser()
    _allow_many_files()
    with _only_server_of(folder), open_keys(folder) as keys:
        credentials_file = _first_key(folder, keys)
        with asyncio.Runner(loop_factory=_loop_factory()) as runner:
            parts = [_mcp_part(mcp_hosts)] if mcp or mcp_hosts else []
            if e2b_port is not None:
                parts.append(lambda server: serve_e2b(server, e2b_port))
            runner.run(_serve(folder, keys, engine_config, server_config, credentials_file, blobs, parts))


ServerPart = Callable[[Server], AbstractAsyncContextManager[dict[str, str]]]
"""A further protocol of a server: begins before its start, and ends before it stops. Gives members of the first
line."""


def _mcp_part(hosts: Sequence[str]) -> ServerPart:
    try:
        from unsandbox.integrations.mcp.http import serve_mcp
    except ImportError as error:
        raise EngineError(str(error)) from error
    return lambda server: serve_mcp(server, hosts)


async def _serve(
    folder: Path,
    keys: StoredKeys,
    engine_config: EngineConfig,
    server_config: ServerConfig,
    credentials_file: Path | None,
    blobs: str | None,
    parts: Sequence[ServerPart],
) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    store = SqlStore(open_database(folder))
    engine = Engine(engine_config, store=store, folder=folder, box=keys.box, blobs=blobs)
    server = Server(engine, keys, server_config)
    try:
        lost = await store.recover(lost_result)
        if lost:
            logger.warning("%d unfinished jobs of an earlier server were marked as failed", lost)
        try:
            await engine.start()
        except SandboxUnavailable as error:
            raise EngineError(f"{error}; `un doctor` shows details") from error
        async with contextlib.AsyncExitStack() as stack:
            members: dict[str, str] = {}
            try:
                for part in parts:
                    members |= await stack.enter_async_context(part(server))
                await server.start()
            except OSError as error:
                await engine.stop()
                where = f"{server_config.host}:{server_config.port}"
                raise EngineError(f"cannot listen on {where}: {error.strerror or error}") from error
            first_line = {"url": server.url, "data": str(folder)}
            first_line |= members
            if credentials_file is not None:
                first_line["credentials_file"] = str(credentials_file)
            click.echo(json.dumps(first_line))
            sys.stdout.flush()
            logger.info("serving on %s", server.url)
            await stop.wait()
            logger.info("stopping; running jobs have %g s to finish", engine_config.stop_grace_s)
        await server.stop_listening()
        await engine.stop()
        await server.stop()
        logger.info("stopped")
    finally:
        await store.close()


def _first_key(folder: Path, keys: StoredKeys) -> Path | None:
    """Create a key if there is none and store it in the format of accounts files; return the file's path."""
    if keys.list():
        return None
    path = folder / "accounts.csv"
    pair = keys.create("made at the first start")
    path.unlink(missing_ok=True)  # It may hold a key of an earlier database.
    write_private(path, f"{pair.public_key},{pair.secret_key}\n".encode())
    logger.info("no key was found; a new one was created and stored in %s", path)
    return path


@contextlib.contextmanager
def _only_server_of(folder: Path) -> Iterator[IO[str]]:
    """Hold the data folder's lock. Two servers on one folder would mark each other's jobs as lost."""
    try:
        lock = private_file(folder, "serve.lock").open("w")
    except OSError as error:
        raise EngineError(f"the data folder {folder} cannot be used: {error.strerror}") from error
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise EngineError(f"another un serve uses {folder}; stop it, or choose another --data") from None
        yield lock


def _allow_many_files() -> None:
    """Raise the soft limit on descriptors (usually 1024), as connections and sandboxes need several each."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def _tls_files(certificate: Path | None, key: Path | None) -> TlsFiles | None:
    if certificate is None and key is None:
        return None
    if certificate is None or key is None:
        raise click.UsageError("--tls-cert and --tls-key must be given together")
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(certificate, key)
    except (OSError, ssl.SSLError) as error:
        raise click.UsageError(f"cannot load the TLS certificate and key: {error}") from error
    return TlsFiles(certificate, key)


def _loop_factory() -> type[asyncio.AbstractEventLoop] | None:
    try:
        import uvloop
    except ImportError:
        return None
    return uvloop.Loop
