"""The outbound network of sandboxes (`semitrusted`): to the public internet only, without inbound connections.

A sandbox's network namespace only has the loopback interface. This module adds an interface, behind which
slirp4netns (user-mode networking, an ordinary process) makes the connections on the host. Forbidden
destinations are blocked *before* that, inside the namespace, where the tenant has no capability to change
anything: by policy rules that precede every route, so that a program gets EACCES at once, and by a packet
filter on the interface (`tap_filter`) for packets that no rule checks. Both exist before the tenant's first
instruction, which waits on `BLOCK_FD`. Rules are used instead of routes, because a socket that is bound to an
interface bypasses IPv6's unreachable routes.

slirp4netns is used instead of pasta, because the pasta of Debian 12 binds a program's UDP port on the host with
SO_REUSEADDR, and so receives datagrams for services of the host (observed; slirp4netns takes a free port).

All of this runs in the launcher, a bare interpreter: standard library only.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import resource
import select
import signal
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial

from unsandbox.sandbox.launcher import syscalls
from unsandbox.sandbox.launcher.enter import CHANGED_SIGNALS
from unsandbox.sandbox.launcher.network import netlink, setup
from unsandbox.sandbox.launcher.network.addresses import Network
from unsandbox.sandbox.launcher.network.setup import NetworkConfig

_NOT_RENEWED = "a new address of this machine could not be kept from it"


@dataclass(slots=True)
class _OutboundNetwork:
    """The network of one sandbox."""

    number: int
    way: NetworkConfig
    block_read: int
    block_write: int
    namespaces: tuple[int, int] | None = None
    """Its user and network namespace."""
    report_fd: int = -1
    """The helper that sets it up says here how that went."""
    log_fd: int = -1
    log_write: int = -1
    """What slirp4netns says, and a helper that failed."""
    exit_fd: int = -1
    """slirp4netns ends when this is closed, by whatever death of this process."""
    helpers: set[int] = field(default_factory=set)
    tool: int = -1
    report: bytes = b""
    ready: bool = False
    failed: bool = False

    def close(self) -> None:
        """Kill what belongs to it and close its descriptors; it must be reaped elsewhere."""
        for pid in (*self.helpers, self.tool):
            if pid > 0:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
        fds = (self.block_read, self.block_write, self.report_fd, self.log_fd, self.log_write, self.exit_fd)
        for fd in (*fds, *(self.namespaces or ())):
            if fd >= 0:
                os.close(fd)
        self.block_read = self.block_write = self.report_fd = -1
        self.log_fd = self.log_write = self.exit_fd = -1
        self.namespaces = None


class OutboundNetworks:
    """The networks of all sandboxes of one launcher, and which networks are this machine's, as they change."""

    def __init__(self, poll: select.poll, on_failure: Callable[[int, str], None]) -> None:
        """Nothing is opened before the first sandbox asks for it.

        Args:
            poll: Where the caller waits; it hands what becomes readable to `handle`.
            on_failure: Called with a sandbox's number and a reason when its network could not be set up. Its
                program has not started then, and never will.
        """
        self._poll = poll
        self._on_failure = on_failure
        self._gates: dict[int, _OutboundNetwork] = {}
        self._by_report: dict[int, _OutboundNetwork] = {}
        self._by_pid: dict[int, _OutboundNetwork] = {}
        self._changes: netlink.Netlink | None = None
        self._host: set[Network] = set()

    def prepare(self, number: int, way: NetworkConfig) -> int:
        """Prepare for a sandbox that is about to be forked; return the descriptor for its `BLOCK_FD`.

        Args:
            number: The caller's number of the sandbox.
            way: How it gets out.
        """
        if self._changes is None:
            self._changes = netlink.Netlink(netlink.IPV4_ROUTE_GROUP | netlink.IPV6_ROUTE_GROUP)
            self._host = setup.present_networks()
            self._poll.register(self._changes.fileno(), select.POLLIN)
        read, write = os.pipe2(os.O_CLOEXEC)
        self._gates[number] = _OutboundNetwork(number, way, read, write)
        return read

    def forked(self, number: int) -> None:
        """Close this process's copy of the descriptor that `prepare` returned."""
        if (gate := self._gates.get(number)) and gate.block_read >= 0:
            os.close(gate.block_read)
            gate.block_read = -1

    def attach(self, number: int, first: int) -> None:
        """Set up the network of a sandbox, whose first process exists and waits; returns at once.

        Args:
            number: As given to `prepare`; without effect on any other.
            first: Host's number of its first process, which the caller knows to be alive.
        """
        if (gate := self._gates.get(number)) is None:
            return
        try:
            self._attach(gate, first)
        except OSError as error:
            self._fail(gate, str(error))

    def _attach(self, gate: _OutboundNetwork, first: int) -> None:
        net = os.open(f"/proc/{first}/ns/net", os.O_RDONLY | os.O_CLOEXEC)
        try:
            user = fcntl.ioctl(net, syscalls.NS_GET_USERNS)
        except OSError:
            os.close(net)
            raise
        os.set_inheritable(user, False)
        gate.namespaces = (user, net)
        gate.report_fd, report_write = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        gate.log_fd, gate.log_write = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        exit_read, gate.exit_fd = os.pipe2(os.O_CLOEXEC)
        go_read, go_write = os.pipe2(os.O_CLOEXEC)
        ready_read, ready_write = os.pipe2(os.O_CLOEXEC)
        try:
            become = partial(setup.become_tool, gate.way)
            gate.tool = self._fork(gate, [gate.log_write, exit_read, go_read, ready_write, user, net], become)
            configure = partial(setup.configure, gate.way, first, gate.tool, list(self._host))
            self._fork_helper(gate, [user, net, report_write, go_write, ready_read], configure)
        finally:
            for fd in (report_write, exit_read, go_read, go_write, ready_read, ready_write):
                os.close(fd)
        self._by_report[gate.report_fd] = gate
        self._poll.register(gate.report_fd, select.POLLIN)

    def _fork_helper(
        self, gate: _OutboundNetwork, fds: Sequence[int], act: Callable[[int, list[int]], None]
    ) -> None:
        gate.helpers.add(self._fork(gate, fds, act))

    def _fork(self, gate: _OutboundNetwork, fds: Sequence[int], act: Callable[[int, list[int]], None]) -> int:
        """Run `act` in a child that has no descriptors but `fds`, as numbers from 3 on; return its number."""
        launcher = os.getpid()
        pid = os.fork()
        if pid:
            self._by_pid[pid] = gate
            return pid
        try:
            signal.set_wakeup_fd(-1)
            for number in CHANGED_SIGNALS:
                signal.signal(number, signal.SIG_DFL)
            act(launcher, _keep_only(fds))
            os._exit(0)
        except OSError as error:
            os.write(2, str(error).encode())
        finally:
            os._exit(1)

    # What happens later

    def handle(self, fd: int) -> bool:
        """Take care of a readable descriptor; False when it is not one of these."""
        if self._changes is not None and fd == self._changes.fileno():
            self._changes.drain()
            self._refresh()
            return True
        if (gate := self._by_report.get(fd)) is None:
            return False
        try:
            data = os.read(fd, 4096)
        except BlockingIOError:
            return True
        gate.report += data
        if gate.report == setup.READY:
            self._stop_listening(gate)
            gate.ready = True
            # It may have been killed meanwhile.
            with contextlib.suppress(OSError):
                os.write(gate.block_write, b"1")
        elif not data:
            self._fail(gate, gate.report.decode("utf-8", "replace"))
        return True

    def _refresh(self) -> None:
        """Forbid what has become this machine's own, in every sandbox. Nothing is allowed again."""
        try:
            new = setup.present_networks() - self._host
        except OSError as error:
            for gate in list(self._gates.values()):
                self._fail(gate, f"the addresses of this machine cannot be read: {error}")
            return
        if not new:
            return
        self._host |= new
        for gate in list(self._gates.values()):
            if gate.namespaces is not None:
                # One that is just being set up does not serve an interface yet.
                tool = gate.tool if gate.ready else -1
                renew = partial(setup.renew, gate.way, tool, list(new), list(self._host))
                try:
                    self._fork_helper(gate, [gate.log_write, *gate.namespaces], renew)
                except OSError as error:
                    self._fail(gate, f"{_NOT_RENEWED}: {error}")

    def reaped(self, pid: int, status: int) -> bool:
        """Note the end of a child process; False when it is not one of these."""
        if (gate := self._by_pid.pop(pid, None)) is None:
            return False
        gate.helpers.discard(pid)
        if pid == gate.tool:
            gate.tool = -1
            if not gate.ready:
                self._fail(gate, "slirp4netns ended")
        elif status:
            # A rule that is missing is a promise that is not kept.
            self._fail(gate, _NOT_RENEWED if gate.ready else "it was not ready in time")
        return True

    def owns(self, pid: int) -> bool:
        """Tell whether a child process is one of these."""
        return pid in self._by_pid

    def close(self, number: int) -> None:
        """Take a sandbox's network away; its processes are killed and still to be reaped."""
        if (gate := self._gates.pop(number, None)) is not None:
            self._stop_listening(gate)
            gate.close()

    def close_all(self) -> None:
        """Take away the networks of all sandboxes."""
        for number in list(self._gates):
            self.close(number)

    def _stop_listening(self, gate: _OutboundNetwork) -> None:
        if self._by_report.pop(gate.report_fd, None) is not None:
            self._poll.unregister(gate.report_fd)

    def _fail(self, gate: _OutboundNetwork, why: str) -> None:
        if gate.failed or self._gates.get(gate.number) is not gate:
            return
        gate.failed = True
        self._stop_listening(gate)
        said = b""
        with contextlib.suppress(OSError):
            said = os.read(gate.log_fd, 1000)
        text = "; ".join(filter(None, (why.strip(), *said.decode("utf-8", "replace").splitlines())))
        self._on_failure(gate.number, f"the sandbox's network failed: {text or 'it did not come up'}")


# In the forked children


def _keep_only(fds: Sequence[int]) -> list[int]:
    """Close every descriptor but `fds` and return those, now from 3 on in the same order."""
    above = 3 + len(fds)
    kept = [fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, above) for fd in fds]
    null = os.open("/dev/null", os.O_RDWR)
    for number in range(3):
        os.dup2(null, number)
    for number, fd in enumerate(kept, 3):
        os.dup2(fd, number, inheritable=False)
    os.closerange(above, resource.getrlimit(resource.RLIMIT_NOFILE)[0])
    return list(range(3, above))
