"""Four ways to say the same: both clients and both function modules, each called by the names of the endpoint table."""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import re
from collections.abc import Iterator
from typing import Any

import msgspec

import un
import un_async
from unsandbox import AsyncClient, Client
from unsandbox.protocol import codec
from unsandbox.protocol.endpoints.jobs import BY_NAME
from unsandbox.protocol.models import WireModel

METHODS = {
    "execute_async": "submit",
    "run_async": "submit_run",
    "wait_job": "wait",
    "cancel_job": "cancel",
    "list_owned_images": "list_images",
    "list_shared_images": "list_images",
    "list_public_images": "list_images",
}
"""Operation to method, where the names differ."""

FUNCTIONS = {
    "execute": "execute_code",
    "run": "run_code",
    "wait_job": "wait_for_job",
    "languages": "get_languages",
    "health": "health_check",
    "session_command": "shell_session",
    "service_logs": "get_service_logs",
    "service_command": "execute_in_service",
    "service_domains": "set_service_domains",
    "get_vault": "get_service_env",
    "set_vault": "set_service_env",
    "delete_vault": "delete_service_env",
    "export_vault": "export_service_env",
    "list_owned_images": "list_images",
    "list_shared_images": "list_images",
    "list_public_images": "list_images",
    "spawn_image": "spawn_from_image",
    "generate_picture": "image",
}
"""Operation to function: those of the historical SDK have its names."""

IMPLIED = {f"list_{which}_images": which for which in ("owned", "shared", "public")}
"""Operations that are an argument of a method."""

IN_LISTS = {
    "list_jobs": "jobs",
    "wait_jobs": "jobs",
    "list_sessions": "sessions",
    "fork_session": "sessions",
    "list_services": "services",
    "list_snapshots": "snapshots",
    "languages": "languages",
}
"""Functions that return the list itself."""

IDS = {
    "execute_async": "job_id",
    "run_async": "job_id",
    "session_snapshot": "snapshot_id",
    "service_snapshot": "snapshot_id",
}
"""Functions that return the id itself."""


class Voice:
    """One way to call the API.

    Args:
        owner: A client or a module.
        runner: Runs what has to be awaited; None for the blocking side.
        keys: Arguments that name the server's keys to a function; None for a client.
        base: What a module is told about where the server is.
    """

    def __init__(
        self, owner: Any, runner: asyncio.Runner | None, keys: dict[str, str] | None, base: str = ""
    ) -> None:
        self._owner = owner
        self._base = base
        self._runner = runner
        self._keys = keys
        self.said: set[str] = set()

    def __call__(self, operation: str, *args: Any, **options: Any) -> dict[str, Any]:
        """Do an operation and return its answer in the form that all four have in common."""
        self.said.add(operation)
        if self._keys is None:
            call = getattr(self._owner, METHODS.get(operation, operation))
        else:
            self._owner.API_BASE = self._base
            call = getattr(self._owner, FUNCTIONS.get(operation, operation))
            if operation not in ("languages", "health"):
                options |= self._keys
            if operation.endswith("_command") and "timeout" in options:
                options["timeout"] = int(options["timeout"] * 1000)
        args = (*args, *([IMPLIED[operation]] if operation in IMPLIED else []))
        result = call(*args, **options)
        if self._runner is not None and inspect.isawaitable(result):
            result = self._runner.run(result)
        return common(operation, result)


def common(operation: str, result: Any) -> dict[str, Any]:
    """Return an answer as its wire type says, whoever gave it: a model, a dict, a list, an id, yes or no."""
    model = BY_NAME[operation].response
    if isinstance(result, WireModel):
        result = codec.to_wire(result)
    elif isinstance(result, bool):
        result = {"status": "ok" if result else "unwell"}
    elif isinstance(result, str):
        result = {IDS[operation]: result}
    elif isinstance(result, list):
        result = {IN_LISTS[operation]: result, "count": len(result)}
    if operation in IDS:
        result = {IDS[operation]: result[IDS[operation]]}
    elif operation == "health":
        result = {"status": result["status"]}
    elif operation == "wait_jobs":
        result = {"jobs": result["jobs"], "count": result["count"]}
    elif operation == "languages":
        result = {"languages": result["languages"], "count": result["count"]}
    return codec.to_wire(codec.from_wire(result, model))


@contextlib.contextmanager
def voices(url: str, public_key: str, secret_key: str, base: str | None = None) -> Iterator[dict[str, Voice]]:
    """Yield the four for one server."""
    base = base or url
    keys = {"public_key": public_key, "secret_key": secret_key}
    before = un.API_BASE, un_async.API_BASE
    try:
        with asyncio.Runner() as runner, Client(**keys, base_url=base) as client:
            asynchronous = AsyncClient(**keys, base_url=base)
            yield {
                "AsyncClient": Voice(asynchronous, runner, None),
                "Client": Voice(client, None, None),
                "un_async": Voice(un_async, runner, keys, base),
                "un": Voice(un, None, keys, base),
            }
            runner.run(asynchronous.close())
    finally:
        un.API_BASE, un_async.API_BASE = before


VOLATILE = (
    "_id", "_at", "_ms", "_time", "content_base64", "_bytes", "id", "name", "url", "last_activity", "remaining_ttl", "disk_used", "sha256",
    "fingerprint", "size", "line", "owner_api_key", "public_key", "trusted_keys", "trusted", "source_image",
)  # fmt: skip
"""Ends of names whose values differ from call to call: only their types are compared."""


def plain(value: Any, name: str = "") -> Any:
    """Return an answer with everything left out that is different each time."""
    if isinstance(value, dict):
        return {key: plain(item, key) for key, item in value.items()}
    if isinstance(value, list):
        return [plain(item, name) for item in value]
    if any(name == end or name.endswith(end) for end in VOLATILE) and value is not None:
        return type(value).__name__ if not isinstance(value, int | float) else "number"
    return re.sub(r"\b(web|pic)-\d+", r"\1-N", value) if isinstance(value, str) else value


def as_text(value: Any) -> str:
    """Return something comparable and readable."""
    return msgspec.json.format(msgspec.json.encode(value, order="deterministic"), indent=1).decode()
