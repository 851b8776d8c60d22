"""Types of services: persistent sandboxes that run a program under a name."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from datetime import datetime
from typing import Annotated, Any, Literal

import msgspec

from unsandbox._presentation.times import as_datetime
from unsandbox.protocol.bounds import (
    KIB,
    MAX_PORTS,
    MAX_VAULT_KEYS,
    BoundExceededError,
    EnvName,
    HostNames,
    Identifier,
    Script,
    Url,
    Word,
)
from unsandbox.protocol.models import InputFiles, IsolationName, Job, NetworkModeName, Vcpu, WireModel

Port = Annotated[int, msgspec.Meta(ge=1, le=65535)]
# Not `$`, which would let a line feed pass after the name.
ServiceName = Annotated[
    str, msgspec.Meta(max_length=63, pattern=r"^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?(?![\s\S])")
]
Ports = Annotated[list[Port], msgspec.Meta(max_length=MAX_PORTS)]

RestartPolicy = Literal["always", "on-failure", "never"]
"""When the program of a service is restarted."""

VAULT_BYTES = 64 * KIB
LOG_TAIL_LINES = 9000

_LONGEST_PORTS = 10 * MAX_PORTS
_NO_VAULT = ("", "{}", "[]", "null")
_LONGEST_NAME = 1 * KIB
_VAULT_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]*\Z")


def ports_from_wire(value: Any) -> Any:
    """Return ports as a list: historical clients send `"80,443"`, or a single number."""
    if isinstance(value, str):
        if len(value) > _LONGEST_PORTS:
            raise BoundExceededError("ports", len(value), _LONGEST_PORTS, "characters")
        return [part.strip() for part in value.split(",") if part.strip()]
    return [value] if isinstance(value, int) and not isinstance(value, bool) else value


class ServiceRequest(WireModel, frozen=True, kw_only=True):
    """The request of `POST /services`."""

    READ_ALIASES = {"network": "network_mode", "domains": "custom_domains"}
    COERCERS = {"ports": ports_from_wire}

    name: ServiceName
    ports: Ports | None = None
    """Ports the program listens on; the URL leads to the first one."""
    custom_domains: HostNames | None = None
    bootstrap: Script | None = None
    """A command, or the http(s) URL of a script."""
    bootstrap_content: Script | None = None
    """A script, stored as `/tmp/bootstrap.sh`."""
    bootstrap_url: Url | None = None
    network_mode: NetworkModeName | None = None
    """`semitrusted` when not given, where the server can enforce it, else `zerotrust` must be asked for."""
    vcpu: Vcpu = 1
    service_type: Word | None = None
    golden_image: Identifier | None = None
    input_files: InputFiles | None = None
    unfreeze_on_demand: bool = False
    shell: Word | None = None
    restart: RestartPolicy = "always"
    isolation: IsolationName = "auto"
    """Hot snapshots require gVisor."""


class ServiceUpdate(WireModel, frozen=True, kw_only=True):
    """The request of `PATCH /services/{id}`."""

    READ_ALIASES = {"domains": "custom_domains"}
    COERCERS = {"ports": ports_from_wire}

    vcpu: Vcpu | None = None
    unfreeze_on_demand: bool | None = None
    show_freeze_page: bool | None = None
    name: ServiceName | None = None
    ports: Ports | None = None
    custom_domains: HostNames | None = None


class ServiceResize(WireModel, frozen=True, kw_only=True):
    """The request of `POST /services/{id}/resize`."""

    vcpu: Vcpu


class Redeploy(WireModel, frozen=True, kw_only=True):
    """The request of `POST /services/{id}/redeploy`. Default: the stored bootstrap."""

    bootstrap: Script | None = None
    bootstrap_content: Script | None = None
    bootstrap_url: Url | None = None
    input_files: InputFiles | None = None


class DomainsRequest(WireModel, frozen=True, kw_only=True):
    """The request of `PUT /services/{id}/domains`: exactly one member."""

    READ_ALIASES = {"domains": "custom_domains"}

    custom_domains: HostNames | None = None
    """All domains."""
    add: HostNames | None = None
    remove: HostNames | None = None


class Domains(WireModel, frozen=True, kw_only=True):
    """The answer of `PUT /services/{id}/domains`."""

    READ_ALIASES = {"domains": "custom_domains"}
    WRITE_ALIASES = {"custom_domains": ("domains",)}

    custom_domains: list[str] | None = None
    """All domains."""
    add: list[str] | None = None
    """Added domains."""
    remove: list[str] | None = None
    """Removed domains."""


class Service(WireModel, frozen=True, kw_only=True):
    """A service."""

    READ_ALIASES = {"id": "service_id", "status": "state", "domains": "custom_domains"}
    WRITE_ALIASES = {"service_id": ("id",), "state": ("status",), "custom_domains": ("domains",)}

    service_id: str | None = None
    """Id of the object."""
    name: str | None = None
    """Name of the service, the first part of its host name."""
    state: str | None = None
    """`running`, `frozen`, `stopped` (the program has ended and is not restarted) or `failed`."""
    url: str | None = None
    """URL of the service."""
    ports: list[int] | None = None
    """Ports the program listens on."""
    custom_domains: list[str] | None = None
    """Custom domains."""
    network_mode: str | None = None
    """`zerotrust` or `semitrusted`."""
    vcpu: int | None = None
    """Processors."""
    memory_mb: int | None = None
    """Memory in MiB."""
    locked: bool | None = None
    """Whether the object is protected from deletion."""
    unfreeze_on_demand: bool | None = None
    """Whether a request unfreezes the service."""
    show_freeze_page: bool | None = None
    """Whether a frozen service answers with a page instead of JSON."""
    disk_used: int | None = None
    """Size of the work folder in bytes."""
    container_name: str | None = None
    """A second name, on the hosted service."""
    source_image: str | None = None
    """Id of the image that the service was started from."""
    service_type: str | None = None
    """Service type, on the hosted service."""
    restarts: int | None = None
    """Number of restarts."""
    reason: str | None = None
    """Why the program ended last: `exit`, `signal`, `memory` or `disk` (a limit), `node` (the server or its
    helper process ended), `lost`, or `start` (it could not be started). `message` says it in words."""
    isolation: str | None = None
    """Name of the isolation backend."""
    created_at: str | int | float | None = None
    """Unix time in seconds, as a string or a number."""
    last_activity: str | int | float | None = None
    """Unix time of the last use."""
    message: str | None = None
    """A message about the object."""

    @property
    def created(self) -> datetime | None:
        """`created_at` as a time in UTC."""
        return as_datetime(self.created_at)

    @property
    def active(self) -> datetime | None:
        """`last_activity` as a time in UTC."""
        return as_datetime(self.last_activity)


class ServiceList(WireModel, frozen=True, kw_only=True):
    """The answer of `GET /services`, newest first."""

    services: list[Service] = []
    """The services."""
    count: int | None = None
    """Length of the list."""

    def __iter__(self) -> Iterator[Service]:
        return iter(self.services)

    def __len__(self) -> int:
        return len(self.services)


class ServiceLog(WireModel, frozen=True, kw_only=True):
    """The log of a service."""

    READ_ALIASES = {"logs": "log"}
    WRITE_ALIASES = {"log": ("logs",)}

    log: str = ""
    """The lines as one text."""
    lines: int | None = None
    """Length of the list."""


class ServiceJob(Job, frozen=True, kw_only=True):
    """The answer of a command in a service: a finished job, with status 202."""


class VaultInfo(WireModel, frozen=True, kw_only=True):
    """Information about a vault, without its values."""

    READ_ALIASES = {"env_count": "count"}
    WRITE_ALIASES = {"count": ("env_count",)}

    has_vault: bool | None = None
    """Whether the vault has variables."""
    count: int | None = None
    """Number of variables."""
    updated_at: int | float | str | None = None
    """Unix time of the last change."""
    message: str | None = None
    """A message about the object."""


class VaultKeys(WireModel, frozen=True, kw_only=True):
    """The request of `DELETE /services/{id}/env`: names, or nothing for all variables."""

    keys: Annotated[list[EnvName], msgspec.Meta(max_length=MAX_VAULT_KEYS)] | None = None  # type: ignore[assignment]


class VaultExport(WireModel, frozen=True, kw_only=True):
    """A vault as text with one `KEY=VALUE` per line."""

    READ_ALIASES = {"content": "env"}
    WRITE_ALIASES = {"env": ("content",)}

    env: str = ""
    """The lines."""

    def __repr__(self) -> str:
        return f"{type(self).__name__}({len(self.env)} characters that are not shown)"


def vault_from_body(body: bytes) -> dict[str, str]:
    r"""Read a vault in any of the forms that clients send: text, `{"content"}`, `{"env"}`, or a flat object.

    A text that begins with a brace is JSON, regardless of its content type, because a variable's name cannot
    begin so. Names are those of a shell, plus dots and hyphens; a value is one line, which is kept unchanged
    with quotes.

    Raises:
        ValueError: The format is unknown, a line has no `=`, or an entry is invalid. The message has no value.

    Example:
        >>> vault_from_body(b"# keys\nA=1\n\nB=x=y\n")
        {'A': '1', 'B': 'x=y'}
        >>> vault_from_body(b'{"env":"A=1"}'), vault_from_body(b'{"A":1,"B":true}')
        ({'A': '1'}, {'A': '1', 'B': 'true'})
    """
    try:
        text = body.decode("utf-8").strip("\ufeff")
    except UnicodeDecodeError:
        raise ValueError("the vault is not UTF-8 text") from None
    if text.strip() in _NO_VAULT:
        return {}
    if not text.lstrip().startswith(("{", "[")):
        return _vault_from_text(text)
    try:
        members = json.loads(text)
    except (ValueError, RecursionError):
        raise ValueError("the vault must be lines KEY=VALUE or a JSON object") from None
    if not isinstance(members, dict):
        raise ValueError("the vault must be a JSON object or lines KEY=VALUE")  # noqa: TRY004 - one error kind
    if len(members) == 1:
        ((name, value),) = members.items()
        if (
            name in {"env", "content"}
            and isinstance(value, str)
            and ("=" in value or "\n" in value or not value)
        ):
            return _vault_from_text(value)
        if name == "env" and isinstance(value, dict):
            members = value
    pairs = {name: _vault_value(number, value) for number, (name, value) in enumerate(members.items(), 1)}
    return _checked(pairs)


def vault_to_text(pairs: Mapping[str, str]) -> str:
    r"""Return the lines of a vault.

    Example:
        >>> vault_to_text({"A": "1", "B": "2"})
        'A=1\nB=2\n'
    """
    return "".join(f"{name}={value}\n" for name, value in pairs.items())


def _vault_from_text(text: str) -> dict[str, str]:
    pairs = {}
    # Not splitlines(): it would end a line at characters that a value may hold.
    for number, line in enumerate(text.split("\n"), 1):
        line = line.removesuffix("\r")
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        name, equals, value = line.partition("=")
        if not equals:
            raise ValueError(f"line {number} of the vault has no '='")
        pairs[name.strip()] = value
    return _checked(pairs)


def _vault_value(number: int, value: object) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str | int | float):
        return str(value)
    raise ValueError(f"entry {number} of the vault is not text")


def _checked(pairs: dict[str, str]) -> dict[str, str]:
    if len(pairs) > MAX_VAULT_KEYS:
        raise BoundExceededError("the vault", len(pairs), MAX_VAULT_KEYS, "variables")
    for number, (name, value) in enumerate(pairs.items(), 1):
        if not _VAULT_NAME.match(name) or len(name) > _LONGEST_NAME:
            raise ValueError(
                f"entry {number} of the vault has no usable name: letters, digits, '_', '.' and '-', at most "
                f"{_LONGEST_NAME} characters, the first no digit"
            )
        if "\0" in value or "\n" in value or "\r" in value:
            raise ValueError(
                f"entry {number} of the vault has a value of several lines, which lines KEY=VALUE cannot hold; "
                "encode it, as base64 for instance"
            )
        try:
            value.encode()
        except UnicodeEncodeError:
            raise ValueError(
                f"entry {number} of the vault contains a lone surrogate, which UTF-8 cannot represent"
            ) from None
    return pairs
