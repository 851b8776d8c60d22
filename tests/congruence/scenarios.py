"""What is said: the same conversation with every voice. Together they use every operation of the endpoint table."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable
from typing import Any

from unsandbox import APIError, ConflictError, NotFoundError, ServerError

Say = Callable[..., dict[str, Any]]
_numbers = itertools.count(1)


def jobs(say: Say, note: Say) -> None:
    """Running code."""
    note(say("execute", "bash", "echo hello; echo odd >&2; exit 3", env={"A": "1"}, vcpu=1, ttl=20))
    note(say("run", "#!/bin/sh\necho by name", ttl=20))
    started = note(say("execute_async", "bash", "sleep 0.2; echo later"))
    note(say("wait_job", started["job_id"]))
    note(say("get_job", started["job_id"]))
    note(say("wait_jobs", [started["job_id"]], timeout=5))
    by_name = note(say("run_async", "#!/bin/sh\nsleep 60"))
    note(say("cancel_job", by_name["job_id"]))
    note(say("list_jobs", limit=2))
    missing(say, note, "get_job")


def account(say: Say, note: Say) -> None:
    """Who one is, and what there is."""
    note(say("languages"))
    note(say("health"))
    note(say("validate_keys"))
    note({"lines": len(say("fetch_logs", "api", lines=1)["lines"])})
    refused(note, ServerError, lambda: say("generate_picture", "a cat", size="256x256"))


def sessions(say: Say, note: Say) -> None:
    """A session from its begin to its end."""
    session = note(say("create_session", shell="bash", ttl=600, name="mine", audit=True))
    name = session["session_id"]
    try:
        note(say("session_command", name, "word=hello; cat /tmp/input/a", input_files={"a": b"file"}))
        note(say("session_command", name, "echo $word; (exit 3)", timeout=20))
        note(say("freeze_session", name))
        note(say("unfreeze_session", session["container_name"]))
        copies = note(say("fork_session", name, count=2, name="copy"))["sessions"]
        for copy in copies:
            say("delete_session", copy["session_id"])
        assert say("session_metrics", name)["session_id"] == name
        say("set_session_timeout", name, 600)
        note(say("set_session_timeout", name, None))
        note(say("boost_session", name, vcpu=2))
        note(say("unboost_session", name))
        note(say("get_session", name))
        note(say("list_sessions"))
    finally:
        note(say("delete_session", name, audit=True))
    missing(say, note, "get_session")


def services(say: Say, note: Say) -> None:
    """A service from its begin to its end."""
    label = f"web-{next(_numbers)}"
    service = note(
        say(
            "create_service",
            label,
            ports=[8000],
            bootstrap_content="echo up\nsleep 1000",
            network_mode="zerotrust",
        )
    )
    name = service["service_id"]
    try:
        note(say("get_vault", name))
        note(say("set_vault", name, {"TOKEN": "t", "OTHER": "x=y"}))
        note(say("delete_vault", name, ["OTHER"]))
        note(say("export_vault", name))
        note(say("redeploy_service", name))
        until(lambda: "up" in say("service_logs", name)["log"])
        note({"has": "up" in say("service_logs", name, all_logs=True)["log"]})
        note(say("service_command", name, "echo beside; exit 4", timeout=20))
        note(say("service_domains", name, [f"{label}.example.org"]))
        note(say("service_domains", name, add=[f"b.{label}.example.org"]))
        note(say("update_service", name, unfreeze_on_demand=True))
        note(say("resize_service", name, 2))
        note(say("freeze_service", name))
        refused(note, ConflictError, lambda: say("service_command", name, "true"))
        note(say("unfreeze_service", name))
        note(say("lock_service", name))
        refused(note, APIError, lambda: say("delete_service", name))
        note(say("unlock_service", name))
        note(say("get_service", label))
        note(say("list_services"))
    finally:
        note(say("delete_service", name))
    missing(say, note, "get_service")


def snapshots(say: Say, note: Say) -> None:
    """Saved states."""
    session = say("create_session", shell="bash")["session_id"]
    made = []
    try:
        say("session_command", session, "echo saved > kept")
        snapshot = note(say("session_snapshot", session, name="first"))["snapshot_id"]
        second = note(say("create_snapshot", "session", session, name="second"))["snapshot_id"]
        made += [snapshot, second]
        say("session_command", session, "echo spoilt > kept")
        note(say("restore_snapshot", snapshot))
        note(say("session_command", session, "cat kept"))
        note(say("lock_snapshot", snapshot))
        refused(note, APIError, lambda: say("delete_snapshot", snapshot))
        note(say("unlock_snapshot", snapshot))
        note(say("get_snapshot", snapshot))
        note(say("list_snapshots"))
        clone = note(say("clone_snapshot", snapshot, "session", name="again"))["session_id"]
        note(say("session_command", clone, "cat kept"))
        say("delete_session", clone)
    finally:
        for name in made:
            note(say("delete_snapshot", name))
        say("delete_session", session)
    missing(say, note, "get_snapshot")


def images(say: Say, note: Say) -> None:
    """Published copies of a service."""
    label = f"pic-{next(_numbers)}"
    bootstrap = "echo up\nsleep 1000"
    say("create_service", label, ports=[8000], bootstrap_content=bootstrap, network_mode="zerotrust")
    made = []
    try:
        snapshot = note(say("service_snapshot", label, name="of it"))["snapshot_id"]
        image = note(say("publish_image", "snapshot", snapshot, name="mine", description="what it is"))[
            "image_id"
        ]
        made.append(image)
        note(say("get_image", image))
        for operation in ("list_images", "list_owned_images", "list_shared_images", "list_public_images"):
            note(say(operation))
        note(say("set_image_visibility", image, "unlisted"))
        note(say("grant_image_access", image, "unsb-pk-aaaa-bbbb-cccc-dddd"))
        note(say("list_image_trusted", image))
        note(say("revoke_image_access", image, "unsb-pk-aaaa-bbbb-cccc-dddd"))
        note(say("lock_image", image))
        refused(note, APIError, lambda: say("delete_image", image))
        note(say("unlock_image", image))
        copy = note(say("clone_image", image, name="copy"))["image_id"]
        note(say("transfer_image", copy, "unsb-pk-aaaa-bbbb-cccc-dddd"))
        spawned = note(say("spawn_image", image, name=f"{label}-2", ports=[8000], network_mode="zerotrust"))
        say("delete_service", spawned["service_id"])
        say("delete_snapshot", snapshot)
    finally:
        for name in made:
            note(say("delete_image", name))
        say("delete_service", label)
    missing(say, note, "get_image")


ALL = (jobs, account, sessions, services, snapshots, images)


def missing(say: Say, note: Say, operation: str) -> None:
    """Ask for what is not there."""
    refused(note, NotFoundError, lambda: say(operation, "none"))


def refused(note: Say, error: type[APIError], call: Callable[[], Any]) -> None:
    """Note what a refusal says."""
    try:
        call()
    except error as caught:
        note({"refused": type(caught).__name__, "status": caught.status, "code": caught.code})
    else:
        raise AssertionError(f"no {error.__name__}")


def until(condition: Callable[[], bool]) -> None:
    """Wait until something has happened."""
    ends = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < ends
        time.sleep(0.05)
