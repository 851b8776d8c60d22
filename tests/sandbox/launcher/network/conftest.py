"""A stretch of internet in the kernel, and a way to try to reach it from inside a sandbox."""

from __future__ import annotations

import json

import pytest
from tests.sandbox.launcher.network import internet as internet_module
from tests.sandbox.launcher.network.attempts import INSIDE, SEMITRUSTED
from tests.sandbox.launcher.network.internet import PORT


@pytest.fixture(scope="module")
def internet():
    with internet_module.made() as made:
        yield made


@pytest.fixture
def attempt(python):
    """Try to reach things from inside: `await attempt({"to": address, ...}, ...)` returns what came back of each."""

    async def go(*tries, network=SEMITRUSTED):
        code = f"PORT = {PORT}\n{INSIDE}\nprint(json.dumps([attempt(how) for how in json.load(sys.stdin)]))"
        outcome = await python(code, network=network, stdin=json.dumps(tries).encode())
        assert outcome.exit_code == 0, outcome.stderr.data.decode()
        return json.loads(outcome.stdout.data)

    return go
