# Generated from src/unsandbox/_async/methods/sessions.py by scripts/unasync.py; change that one.
"""Sessions: sandboxes with a shell that stay until they are deleted or left idle."""

from __future__ import annotations

from unsandbox._compat.blocking import OneTimeCode
from unsandbox._shared.deadline import LONG_S
from unsandbox._shared.files import InputFiles
from unsandbox._shared.options import command_members, command_patience
from unsandbox._sync.base import Connected
from unsandbox._sync.objects.session import LiveSession
from unsandbox._sync.objects.terminal import Terminal
from unsandbox.protocol.models import IsolationName, NetworkModeName
from unsandbox.protocol.sessions import CommandResult, Session, SessionList
from unsandbox.protocol.snapshots import Snapshot


class SessionMethods(Connected):
    """Methods of a client for sessions. `session_id` may also be a container name."""

    def session(
        self,
        *,
        shell: str | None = None,
        language: str | None = None,
        network_mode: NetworkModeName | None = None,
        ttl: int | None = None,
        multiplexer: str | None = None,
        vcpu: int | None = None,
        input_files: InputFiles | None = None,
        audit: bool | None = None,
        name: str | None = None,
        isolation: IsolationName | None = None,
        otp: OneTimeCode | None = None,
    ) -> LiveSession:
        """Return a session for one block: made at its begin, deleted at its end, however the block ends.

        Args:
            shell: As for `create_session`.
            language: As for `create_session`.
            network_mode: As for `create_session`.
            ttl: As for `create_session`.
            multiplexer: As for `create_session`.
            vcpu: As for `create_session`.
            input_files: As for `create_session`.
            audit: As for `create_session`; the history is then in `info.artifacts` after the block.
            name: As for `create_session`.
            isolation: As for `create_session`.
            otp: One-time code for the deletion, where the server wants one.

        Example:
            ```python
            with client.session(shell="bash") as session:
                session.run("cd /tmp; word=hello")
                result = session.run("echo $word from $PWD")
                assert result.stdout == "hello from /tmp" + chr(10)
            ```
        """
        return LiveSession(
            self,
            self._connection,
            None,
            {
                "shell": shell,
                "language": language,
                "network_mode": network_mode,
                "ttl": ttl,
                "multiplexer": multiplexer,
                "vcpu": vcpu,
                "input_files": input_files,
                "audit": audit,
                "name": name,
                "isolation": isolation,
            },
            otp,
        )

    def attach_session(self, session_id: str) -> LiveSession:
        """Return an object for a session that exists. Nothing is asked yet, and a block does not delete it.

        Args:
            session_id: Which session.

        Example:
            ```python
            session = client.attach_session(session_id)
            result = session.run("ls")
            ```
        """
        return LiveSession(self, self._connection, session_id)

    def terminal(self, session_id: str, *, columns: int = 80, rows: int = 24, reconnect: int = 3) -> Terminal:
        """Return the terminal of a session for one block.

        Args:
            session_id: Which session.
            columns: Width in characters.
            rows: Height in lines.
            reconnect: How often a connection that breaks is made again, each time for a few seconds; 0 ends
                the terminal then. What the shell is after that depends on the session: one with a
                `multiplexer` goes on where it was and shows what was missed.

        Example:
            ```python
            with client.terminal(session_id, columns=120) as terminal:
                terminal.write("exit" + chr(10))
                for data in terminal:
                    print(data)
            ```
        """
        return Terminal(self._connection, session_id, columns, rows, reconnect)

    def list_sessions(self) -> SessionList:
        """Return the sessions of this key, newest first."""
        return self._do("list_sessions", SessionList)

    def create_session(
        self,
        *,
        shell: str | None = None,
        language: str | None = None,
        network_mode: NetworkModeName | None = None,
        ttl: int | None = None,
        multiplexer: str | None = None,
        vcpu: int | None = None,
        input_files: InputFiles | None = None,
        audit: bool | None = None,
        name: str | None = None,
        isolation: IsolationName | None = None,
    ) -> Session:
        """Start a session and return it. It stays until `delete_session`, or until it was idle for its `ttl`.

        Args:
            shell: Name of a shell or REPL, such as `bash`, `python3`, `node`; `bash` when nothing is given.
            language: A language whose REPL is meant.
            network_mode: `zerotrust` for no network (the default) or `semitrusted` for outbound only.
            ttl: Seconds without traffic after which the session is deleted; 3600 when not given.
            multiplexer: `tmux` or `screen`: the terminal survives a disconnect.
            vcpu: Processors, 1 to 8; memory goes with them.
            input_files: Files, found in `/tmp/input/` by name: a mapping from name to content, or paths.
            audit: Keep the shell history for the end.
            name: A name for people.
            isolation: On servers of this project: `bubblewrap`, `gvisor`, or `hardened` for gVisor or nothing.

        Raises:
            RateLimitError: The key has as many sessions as it may have.
        """
        return self._do(
            "create_session",
            Session,
            body={
                "shell": shell,
                "language": language,
                "network_mode": network_mode,
                "ttl": ttl,
                "multiplexer": multiplexer,
                "vcpu": vcpu,
                "input_files": input_files,
                "audit": audit,
                "name": name,
                "isolation": isolation,
            },
        )

    def get_session(self, session_id: str) -> Session:
        """Return a session as it is now.

        Args:
            session_id: Which session.

        Raises:
            NotFoundError: There is no such session, or it belongs to another key.
        """
        return self._do("get_session", Session, session_id)

    def delete_session(
        self, session_id: str, *, audit: bool | None = None, otp: OneTimeCode | None = None
    ) -> Session:
        """End a session.

        Args:
            session_id: Which session.
            audit: Return the shell history with the artifacts.
            otp: One-time code, where the server wants one.

        Returns:
            The session, with what lay in `/tmp/artifacts`.
        """
        return self._do("delete_session", Session, session_id, query={"audit": audit}, otp=otp)

    def freeze_session(self, session_id: str) -> Session:
        """Stop all processes of a session where they are; their memory stays.

        Args:
            session_id: Which session.
        """
        return self._do("freeze_session", Session, session_id)

    def unfreeze_session(self, session_id: str) -> Session:
        """Let the processes of a session go on where they were stopped.

        Args:
            session_id: Which session.
        """
        return self._do("unfreeze_session", Session, session_id)

    def boost_session(self, session_id: str, *, vcpu: int | None = None) -> Session:
        """Give a session more processors and memory.

        Args:
            session_id: Which session.
            vcpu: How many processors it shall have, 1 to 8; 2 when not given.
        """
        return self._do("boost_session", Session, session_id, body={"vcpu": vcpu})

    def unboost_session(self, session_id: str) -> Session:
        """Return a session to one processor.

        Args:
            session_id: Which session.
        """
        return self._do("unboost_session", Session, session_id)

    def session_command(
        self,
        session_id: str,
        command: str,
        *,
        timeout: float | None = 30.0,
        input_files: InputFiles | None = None,
    ) -> CommandResult:
        """Run one command in the live shell of a session: what it changes is there for the next one.

        Args:
            session_id: Which session.
            command: The command; in a REPL, an expression or statements.
            timeout: Seconds that the command may run; then it ends with exit code 124. None for no limit.
            input_files: Files for it, found in `/tmp/input/`.

        Returns:
            Output and exit code.
        """
        return self._do(
            "session_command",
            CommandResult,
            session_id,
            body=command_members(command, timeout, input_files),
            timeout=command_patience(timeout, self._connection.server.timeout),
        )

    def session_snapshot(
        self, session_id: str, *, name: str | None = None, hot: bool | None = None
    ) -> Snapshot:
        """Save the state of a session.

        Args:
            session_id: Which session.
            name: A name for people.
            hot: With memory and running processes, where the session's isolation can do that.
        """
        return self._do(
            "session_snapshot", Snapshot, session_id, body={"name": name, "hot": hot}, timeout=LONG_S
        )
