"""mini-swe-agent: a session as the environment in which an agent's commands run.

Each command is a process of its own; files stay between commands. The embedded engine runs the session, or the
server in `UNSANDBOX_API_BASE`.
"""

from __future__ import annotations

from typing import Any, cast

from unsandbox.integrations._missing import missing

try:
    from minisweagent.exceptions import Submitted
    from minisweagent.utils.serialize import recursive_merge
    from pydantic import BaseModel
except ImportError as error:
    raise missing(error, "mini-swe-agent") from error

from unsandbox._sync.client import Client
from unsandbox._sync.objects.session import LiveSession
from unsandbox.integrations.workspace import WorkspaceOptions, split_options

_SUBMITTED = "COMPLETE_TASK_AND_SUBMIT_FINAL_OUTPUT"


class UnsandboxEnvironmentConfig(BaseModel):
    """Settings of an environment."""

    cwd: str = "/work"
    """Working directory of commands."""
    env: dict[str, str] = {}
    """Further environment variables."""
    timeout: int = 30
    """Seconds until a command and all of its children are killed."""
    options: dict[str, Any] = {}
    """The server and the session; see `unsandbox.integrations.workspace.WorkspaceOptions`."""


class UnsandboxEnvironment:
    """An environment of mini-swe-agent; in its configuration, the class is named by `environment_class`.

    Args:
        config_class: Type of the settings.
        settings: See `UnsandboxEnvironmentConfig`.

    Example:
        ```python
        environment = UnsandboxEnvironment(options={"isolation": "gvisor"})
        print(environment.execute({"command": "uname"})["output"])
        environment.cleanup()
        ```
    """

    def __init__(
        self, *, config_class: type[UnsandboxEnvironmentConfig] = UnsandboxEnvironmentConfig, **settings: Any
    ) -> None:
        self.config = config_class(**settings)
        self._server, self._members = split_options(cast("WorkspaceOptions", self.config.options))
        self._client: Client | None = None
        self._session: LiveSession | None = None

    def execute(self, action: dict[str, Any], cwd: str = "", *, timeout: int | None = None) -> dict[str, Any]:
        """Run a command; return its output, with that of standard error, and its exit code.

        Args:
            action: Holds the command line as `command`.
            cwd: Working directory. Default: that of the settings.
            timeout: Seconds until the command and all of its children are killed.

        Raises:
            Submitted: The command says that the task is complete.
        """
        limit = timeout or self.config.timeout
        result = self._opened().exec(
            ["bash", "-c", 'exec 2>&1; eval "$0"', action.get("command", "")],
            cwd=cwd or self.config.cwd,
            env=self.config.env,
            timeout=limit,
        )
        output: dict[str, Any] = {
            "output": result.stdout or "",
            "returncode": result.exit_code,
            "exception_info": "",
        }
        if result.timed_out:
            told = f"the command had not ended after {limit} s, and was killed"
            output |= {"returncode": -1, "exception_info": told, "extra": {"exception_type": "TimeoutExpired"}}
        lines = output["output"].lstrip().splitlines(keepends=True)
        if lines and lines[0].strip() == _SUBMITTED and output["returncode"] == 0:
            submission = "".join(lines[1:])
            extra = {"exit_status": "Submitted", "submission": submission}
            raise Submitted({"role": "exit", "content": submission, "extra": extra})
        return output

    def get_template_vars(self, **further: Any) -> dict[str, Any]:
        """Return the variables of prompts: the settings, and the system of the session."""
        names = ("system", "node", "release", "version", "machine")
        said = self._opened().exec(["uname", "-s", "-n", "-r", "-v", "-m"]).stdout or ""
        system, node, release, *version, machine = said.split()
        found = dict(zip(names, (system, node, release, " ".join(version), machine), strict=True))
        settings = self.config.model_dump(exclude={"options"})
        return dict(recursive_merge(settings, found, further))

    def serialize(self) -> dict[str, Any]:
        """Return the settings for the record of a run, without those of the server."""
        kind = f"{type(self).__module__}.{type(self).__name__}"
        settings = self.config.model_dump(mode="json", exclude={"options"})
        return {"info": {"config": {"environment": settings, "environment_type": kind}}}

    def cleanup(self) -> None:
        """Delete the session."""
        session, self._session = self._session, None
        client, self._client = self._client, None
        if client is None:
            return
        with client:
            if session is not None:
                session.delete()

    def _opened(self) -> LiveSession:
        if self._session is None:
            self._client = Client(**self._server)
            created = self._client.create_session(**self._members)
            self._session = self._client.attach_session(created.session_id or "")
        return self._session
