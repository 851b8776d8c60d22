"""Services of a real `un serve`: reached through its port, and there again after a restart and after kill -9."""

from __future__ import annotations

import json
import os
import subprocess
import urllib.error
import urllib.request
from typing import Any

import pytest
from tests.support import REPO, UN, Serve, eventually

APP = (REPO / "tests" / "server" / "apps" / "echo.py").read_text()


def visit(server: Serve, host: str, path: str = "/") -> tuple[int, dict[str, Any]]:
    request = urllib.request.Request(server.url + path, headers={"Host": host})
    try:
        with urllib.request.urlopen(request, timeout=30) as response:
            return response.status, json.load(response)
    except urllib.error.HTTPError as error:
        with error:
            return error.code, json.load(error)


@pytest.mark.parametrize("end", [pytest.param("stop", marks=pytest.mark.slow), "kill"])
def test_services_come_back(tmp_path, end):
    with Serve(tmp_path) as server:
        keys = server.keys()
        body = {"bootstrap_content": APP, "ports": [8000], "network": "zerotrust"}
        for name in ("runs", "ice"):
            status, made = server.call(
                keys, "POST", "/services", body | {"name": name, "unfreeze_on_demand": True}
            )
            assert status == 200, made
        assert server.call(keys, "POST", "/services/runs/env", {"SECRET": "kept"})[0] == 200
        first = visit(server, "runs.localhost")[1]
        assert (first["env"], first["path"]) == ("kept", "/")
        assert server.call(keys, "POST", "/services/ice/freeze")[1]["state"] == "frozen"
        command = {"command": "echo data > /work/file"}
        assert server.call(keys, "POST", "/services/runs/execute", command)[1]["exit_code"] == 0
        getattr(server, end)()
        assert "kept" not in server.log
    with Serve(tmp_path) as server:
        states = {
            service["name"]: service["state"]
            for service in server.call(keys, "GET", "/services")[1]["services"]
        }
        assert states == {"runs": "running", "ice": "frozen"}
        # The request waits until the program listens again.
        status, again = visit(server, "runs.localhost", "/again")
        assert (status, again["env"]) == (200, "kept")
        assert again["started"] > first["started"]
        kept = server.call(keys, "POST", "/services/runs/execute", {"command": "cat /work/file"})[1]
        assert kept["stdout"] == "data\n"
        assert "GET /\n" in server.call(keys, "GET", "/services/runs/logs")[1]["log"]
        assert visit(server, "ice.localhost", "/woken")[0] == 200
        assert server.call(keys, "GET", "/services/ice")[1]["state"] == "running"
        for name in ("runs", "ice"):
            assert server.call(keys, "DELETE", f"/services/{name}")[0] == 200
        assert eventually(lambda: not list((tmp_path / "services").iterdir()))
        assert server.stop() == 0


def test_the_command_line_follows_a_log(tmp_path):
    with Serve(tmp_path) as server:
        public, secret = server.keys()
        environment = os.environ | {
            "UNSANDBOX_API_BASE": server.url, "UNSANDBOX_PUBLIC_KEY": public, "UNSANDBOX_SECRET_KEY": secret,
        }  # fmt: skip
        script = "mkfifo /work/pipe; echo one; echo two; exec 3<>/work/pipe; while read l <&3; do echo $l; done"
        body = {"name": "talks", "bootstrap": script, "network": "zerotrust"}
        assert server.call((public, secret), "POST", "/services", body)[0] == 200
        eventually(
            lambda: "two" in server.call((public, secret), "GET", "/services/talks/logs")[1]["log"],
        )
        command = [*UN, "service", "logs", "talks", "--follow", "--json", "--lines", "1"]
        with subprocess.Popen(
            command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        ) as un:
            assert un.stdout is not None
            assert json.loads(un.stdout.readline())["line"] == "two"
            say = {"command": "echo three > /work/pipe"}
            assert server.call((public, secret), "POST", "/services/talks/execute", say)[0] == 202
            assert json.loads(un.stdout.readline()) == {"source": "talks", "line": "three"}
            assert server.call((public, secret), "DELETE", "/services/talks")[0] == 200
            _, said = un.communicate(timeout=60)
        assert un.returncode != 0
        assert "talks" in said
