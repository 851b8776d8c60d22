"""mini-swe-agent: its own agent with a scripted model, in a session."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from tests.support import FRAMEWORKS

pytest.importorskip("minisweagent", reason=FRAMEWORKS)

from minisweagent.agents.default import DefaultAgent
from minisweagent.environments import get_environment
from minisweagent.models.test_models import DeterministicModel, make_output

from unsandbox.integrations.mini_swe_agent import UnsandboxEnvironment
from unsandbox.integrations.workspace import WorkspaceOptions


@pytest.fixture
def environment(options: WorkspaceOptions) -> Iterator[UnsandboxEnvironment]:
    made = UnsandboxEnvironment(options=options)
    yield made
    made.cleanup()


def test_an_agent_solves_a_task(environment: UnsandboxEnvironment) -> None:
    commands = [
        "echo 41 > answer; echo $((41 + 1)) > answer",
        "echo COMPLETE_TASK_AND_SUBMIT_FINAL_OUTPUT; cat answer",
    ]
    outputs = [make_output(command, [{"command": command}]) for command in commands]
    agent = DefaultAgent(
        DeterministicModel(outputs=outputs),
        environment,
        system_template="You run commands.",
        instance_template="{{task}} on {{system}}",
    )
    ended = agent.run("Compute.")
    assert (ended["exit_status"], ended["submission"]) == ("Submitted", "42\n")


def test_commands(environment: UnsandboxEnvironment) -> None:
    done = environment.execute({"command": "echo out; echo err >&2; exit 3"})
    assert (done["output"], done["returncode"]) == ("out\nerr\n", 3)
    late = environment.execute({"command": "echo begun; sleep 60 & sleep 60"}, timeout=1)
    assert (late["output"], late["returncode"]) == ("begun\n", -1)
    assert environment.execute({"command": "pgrep sleep"})["returncode"] == 1
    assert environment.execute({"command": "pwd"}, "/tmp")["output"] == "/tmp\n"


def test_it_is_found_by_its_name() -> None:
    settings = {"environment_class": "unsandbox.integrations.mini_swe_agent.UnsandboxEnvironment", "timeout": 7}
    made = get_environment(settings)
    assert isinstance(made, UnsandboxEnvironment)
    assert made.serialize()["info"]["config"]["environment"]["timeout"] == 7
