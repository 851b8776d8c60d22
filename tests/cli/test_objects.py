"""`un session`, `un service`, `un snapshot`, `un image`: every verb, on a server and on the embedded engine."""

from __future__ import annotations

import json

import click
import pytest
from tests.support import eventually

from unsandbox.cli.group import cli
from unsandbox.cli.historical import with_verb


def test_verbs_of_sessions(un, tmp_path):
    (tmp_path / "in.txt").write_text("given")
    made = un.text("session", "-d", "-f", "in.txt", "-t", "600", "-v", "1", "--name", "mine", "-a").strip()
    assert un.text("session", "run", made, "cat /tmp/input/in.txt; x=1") == "given"
    failed = un("session", "run", made, "echo $x; exit 3", check=False)
    assert (failed.stdout, failed.returncode) == (b"1\n", 3)
    assert un.text("session", "freeze", made) == f"frozen {made}\n"
    assert "frozen" in un.text("session", "--info", made)
    assert un.text("session", "--unfreeze", made) == f"running {made}\n"
    assert "2 vCPU" in un.text("session", "boost", made)
    assert un.text("session", "unboost", made) == f"unboosted {made}\n"
    row = next(line for line in un.text("session", "-l").splitlines() if line.startswith(made))
    assert row.split("\t")[2:4] == ["bash", "running"]
    refused = un("session", "delete", made, check=False)
    assert (refused.returncode, b"--yes" in refused.stderr) == (2, True)
    un("session", "--kill", made, "-y", "-a", "-o", "saved")
    assert "cat /tmp/input" in (tmp_path / "saved" / "audit.log").read_text()
    assert un("session", "get", made, check=False).returncode == 4


OTHER = "unsb-pk-aaaa-bbbb-cccc-dddd"


def made_service(un, name: str, *options: str) -> str:
    """Make a service and return its id."""
    script = "echo greeting $GREETING; exec python3 -m http.server 8000"
    un("service", "create", name, "--ports", "8000", "-n", "zerotrust", "--bootstrap", script, *options)
    return json.loads(un.text("service", "get", name, "--json"))["id"]


def refused(un, *words: str) -> bool:
    """Tell whether a command fails as the server says no."""
    return un(*words, check=False).returncode == 4


def test_verbs_of_services(un):
    service = made_service(un, "cliweb", "-e", "GREETING=hi")
    eventually(lambda: "greeting hi" in un.text("service", "logs", "cliweb"))
    assert un.text("service", "run", "cliweb", "echo beside") == "beside\n"
    assert "http.server" in un.text("service", "bootstrap", "cliweb")
    assert "http.server" in json.loads(un.text("service", "bootstrap", "cliweb", "--json"))["bootstrap"]
    assert un.text("service", "resize", service, "-v", "2") == f"{service} has 2 vCPU\n"
    un("service", "update", service, "--unfreeze-on-demand", "--no-freeze-page")
    un("service", "redeploy", service)
    un("service", "freeze", service)
    assert "frozen" in un.text("service", "get", service)
    un("service", "unfreeze", service)
    un("service", "lock", service)
    assert refused(un, "service", "delete", service, "-y")
    un("service", "unlock", service)
    assert "cliweb" in un.text("service")
    un("service", "delete", service, "-y")
    assert service not in un.text("service", "list")


def test_verbs_of_domains(un):
    service = made_service(un, "clidomains")
    assert un.text("service", "domains", service, "one.example") == "one.example\n"
    assert un.text("service", "domains", service, "--add", "two.example") == "one.example\ntwo.example\n"
    assert un.text("service", "domains", service, "--remove", "one.example") == "two.example\n"
    assert un.text("service", "domains", service) == "two.example\n"
    assert un("service", "domains", service, "--add", check=False).returncode == 2
    assert un.text("service", "domains", service, "--clear") == ""
    un("service", "delete", service, "-y")


def test_verbs_of_vaults(un):
    service = made_service(un, "clivault", "-e", "GREETING=hi")
    assert "count" in un.text("service", "env", "status", service)
    assert un.text("service", "env", "set", service, "A=1", "B=2") == "2 variables\n"
    assert un.text("service", "env", "export", service) == "A=1\nB=2\n"
    assert un.text("service", "env", "delete", service, "A") == "1 variables left\n"
    un("service", "env", "set", service, stdin=b"C=3\n")
    assert un.text("service", "env", "export", service) == "C=3\n"
    assert un.text("service", "env", "delete", service, "-y") == "0 variables left\n"
    un("service", "delete", service, "-y")


def test_verbs_of_snapshots(un):
    service = made_service(un, "clisaved")
    snapshot = un.text("service", "snapshot", service, "--name", "saved").strip()
    assert snapshot in un.text("snapshot")
    assert "saved" in un.text("snapshot", "get", snapshot)
    un("snapshot", "restore", snapshot)
    un("snapshot", "lock", snapshot)
    assert refused(un, "snapshot", "delete", snapshot, "-y")
    un("snapshot", "unlock", snapshot)
    clone = un.text("snapshot", "clone", snapshot, "--type", "session").strip()
    un("session", "delete", "-y", clone)
    un("snapshot", "delete", snapshot, "-y")
    assert snapshot not in un.text("snapshot")
    un("service", "delete", service, "-y")


def test_verbs_of_images(un):
    service = made_service(un, "cliimages")
    snapshot = un.text("service", "snapshot", service, "--name", "saved").strip()
    image = un.text("image", "publish", "snapshot", snapshot, "--name", "picture").strip()
    assert image in un.text("image", "list", "owned")
    un("image", "visibility", image, "public")
    assert image in un.text("image", "list", "public")
    assert un.text("image", "grant", image, OTHER) == f"{OTHER}\n"
    assert un.text("image", "trusted", image) == f"{OTHER}\n"
    un("image", "revoke", image, OTHER)
    copy = un.text("image", "clone", image, "--name", "copy").strip()
    spawned = un.text(
        "image", "spawn", copy, "--name", "clispawn", "--ports", "8000", "-n", "zerotrust"
    ).split()[0]
    un("image", "lock", copy)
    un("image", "unlock", copy)
    un("image", "transfer", copy, OTHER, "-y")
    assert refused(un, "image", "get", copy)
    un("image", "delete", image, "-y")
    un("snapshot", "delete", snapshot, "-y")
    un("service", "delete", spawned, service, "-y")
    assert spawned not in un.text("service", "list")


def leaves(command: click.Command, words: tuple[str, ...] = ()):
    """Yield every command that does something, with the words that call it."""
    if not isinstance(command, click.Group) or command.invoke_without_command:
        yield " ".join(words), command
    if isinstance(command, click.Group):
        for name in command.list_commands(None):
            yield from leaves(command.get_command(None, name), (*words, name))


def test_every_command_can_say_json():
    silent = {name for name, command in leaves(cli) if "as_json" not in {each.name for each in command.params}}
    # The first prints a script, the second speaks MCP, and the first line of the third is JSON.
    assert silent == {"completion", "mcp", "serve"}


def test_no_command_has_two_options_of_one_name():
    for name, command in leaves(cli):
        options = [option for each in command.params for option in (*each.opts, *each.secondary_opts)]
        assert len(options) == len({*options}), name


@pytest.mark.parametrize(("words", "wanted"), [
    ([], ["list"]),
    (["--json"], ["list", "--json"]),
    (["--help"], ["--help"]),
    (["get", "x", "--name"], ["get", "x", "--name"]),
    (["--ports", "80", "--name", "web"], ["create", "web", "--ports", "80"]),
])  # fmt: skip
def test_a_verb_is_found_or_meant(words, wanted):
    assert with_verb(words, {"--name": "create"}, "list") == wanted


def test_what_there_is_none_of_is_said_with_what_helps(un):
    for kind in ("session", "service", "snapshot", "image", "jobs"):
        missing = un(kind, "get", "none", check=False)
        assert missing.returncode == 4
        assert f"un {kind} list" in missing.stderr.decode()
        unknown = un(kind, "nosuchverb", check=False)
        assert (unknown.returncode, b"choose from: " in unknown.stderr) == (2, True)
        assert json.loads(un.text("--json", kind, "list"))["count"] >= 0
    for kind in ("service", "snapshot", "image", "jobs"):
        assert json.loads(un.text(kind, "--json"))["count"] >= 0
