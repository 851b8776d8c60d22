"""Starts the engine in each way that people start programs, in a guest, and prints a table: `make test-hosts`."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

from tests.hosts.guest import PROJECT, USER, Guest

INSIDE = f"{PROJECT}/.venv/bin/python -m tests.hosts.inside"
HERE = f"cd {PROJECT} && "
SERVICE = f"systemd-run -q --pipe --wait --working-directory={PROJECT}"
SCOPE = "systemd-run -q --user --scope"


def as_user(command: str) -> str:
    return f"runuser -l {USER} -c '{HERE}{command}'"


GONE = f"loginctl disable-linger {USER}; systemctl stop user@1000; "
STARTS = {
    "root, service": f"{SERVICE} {INSIDE}",
    "root, service, a shell around it": f"{SERVICE} sh -c '{INSIDE}; true'",
    "root, service with Delegate": f"{SERVICE} -p Delegate=yes {INSIDE}",
    "root, service with Delegate, a shell around it": f"{SERVICE} -p Delegate=yes sh -c '{INSIDE}; true'",
    "root, scope": f"{HERE}systemd-run -q --scope {INSIDE}",
    "user, login session": f"loginctl enable-linger {USER}; {as_user(INSIDE)}",
    "user, scope": as_user(f"{SCOPE} {INSIDE}"),
    "user, scope with Delegate": as_user(f"{SCOPE} -p Delegate=yes {INSIDE}"),
    "user, scope with Delegate, a shell around it": as_user(f'{SCOPE} -p Delegate=yes sh -c "{INSIDE}; true"'),
    "user, nice": as_user(f"nice -n 7 {INSIDE}"),
    "user without a session": f"{GONE}{HERE}setpriv --reuid={USER} --regid={USER} --clear-groups {INSIDE}",
}
WITHOUT_GROUPS = {"user without a session": "no-user-manager"}


def faults(name: str, row: dict[str, object]) -> list[str]:
    """Return the columns of a row that are not as they should be."""
    wanted: dict[str, object] = {
        "pool": True,
        "hello": "hello",
        "memory bomb": "memory",
        "session": True,
        "group as before": True,
        "why": WITHOUT_GROUPS.get(name, ""),
        "cgroup": 0 if name in WITHOUT_GROUPS else 2,
        "freezer": "stop" if name in WITHOUT_GROUPS else "v2",
    }
    if name not in WITHOUT_GROUPS:
        wanted["boost"] = True
    found = [column for column, value in wanted.items() if row.get(column) != value]
    most = row.get("fork bomb")
    if not isinstance(most, int) or not 0 < most <= 45:
        found.append("fork bomb")
    used = row.get("CPU of half")
    if name not in WITHOUT_GROUPS and (not isinstance(used, float) or used > 0.65):
        found.append("CPU of half")
    return found


def main() -> int:
    work = Path(os.environ.get("UNSANDBOX_GUEST", "/var/tmp/unsandbox-guest"))
    work.mkdir(parents=True, exist_ok=True)
    guest = Guest(work.resolve())
    guest.build()
    guest.start()
    bad = 0
    try:
        for name, command in STARTS.items():
            said = guest.run(command, 600)
            lines = [line for line in said.splitlines() if line.startswith("{")]
            row = json.loads(lines[-1]) if lines else {"error": said[-500:]}
            wrong = faults(name, row)
            bad += bool(wrong)
            verdict = f"FAULT {', '.join(wrong)}" if wrong else "ok"
            sys.stdout.write(f"{verdict}: {name}: {json.dumps(row)}\n")
            sys.stdout.flush()
    finally:
        guest.stop()
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
