"""The zygote: a Python interpreter that stopped just before its program and forks one warm sandbox per request.

This file runs in the *system's* `python3`, started as `python3 /work/main.py` in a sandbox template: the file
system of every sandbox, with the right to create namespaces. A line in a `.pth` file of the user's site folder
loads this file, which installs a path hook. The interpreter calls the hook about its program after its start-up
and before it opens the program. From inside this call the zygote serves requests.

For each request it forks. The child enters its own control group, namespaces, file systems, limits and user,
gives up all privileges, and forks the process that will become the program. That process reports that it is
ready, and waits. When its job arrives, it writes the files, and the hook returns: from there on the
interpreter runs its own code, as in a cold run, without a frame of this file below the program. For other
languages, it executes their command instead. The zygote itself never sees a byte of a job.

Standard library only, and nothing that leaves a trace in the program: modules that a cold run would not load
are forgotten. The file supports `python3` from 3.9 on; hence the imports within functions.
"""

from __future__ import annotations

import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping
    from typing import Any

    from unsandbox.sandbox.zygote.lockdown import CONTROL_FD, FEEDER, FIRST, FIRST_PROCESS_FD, Setup
    from unsandbox.sandbox.zygote.prefault import rehearse

MAIN = "/work/main.py"
HOME = "/work/"
FIRST_PROCESS = "/work/.first"
"""The program of each sandbox's first process, if one exists for this machine."""
KIND_ANY, KIND_NODE, KIND_BASH = range(3)
"""The kinds of sandboxes: this interpreter waits in them, or another one that only lacks its program."""
PROGRAMS = {KIND_NODE: "/work/main.js", KIND_BASH: "/work/main.sh"}
"""The path of the program for each other interpreter."""
MAX_REQUEST = 1024
MAX_JOB = 1 << 17
MAX_GROUPS = 8

_FOLDERS: list[str] = []
_COMMANDS: dict[int, list[str]] = {}
"""The commands of the interpreters in `PROGRAMS`."""
_MAYBE_ARCHIVE: list[str] = []
"""The path of a program that contains the end mark of a zip archive."""
_DEATH_BY = 128
PROGRAM_NUMBER = 2
"""The pid of the first process inside its sandbox."""
ENDING_SIGNAL = 64
"""The signal of a program to the first process that it is about to exit with 0."""
_BASH_ENV = "/work/.begin"
_BASH_BEGINS = b"unset BASH_ENV;SECONDS=0;: bash"
"""Commands that give a bash that has waited the state of a new one."""


def install(
    make_setup: Callable[[], Setup],
    folders: Iterable[str],
    commands: Mapping[int, list[str]],
    *,
    quick_end: bool,
) -> None:
    """Let the interpreter serve requests instead of opening its program.

    Args:
        make_setup: Creates the `Setup`.
        folders: Folders that each sandbox creates before it is ready.
        commands: How other interpreters are started, by the kind of sandbox that they wait in.
        quick_end: Whether an interpreter skips the parts of its shutdown that no program can observe.
    """
    _FOLDERS.extend(folders)
    _COMMANDS.update(commands)
    original = sys.path_hooks[0]

    def hook(path: str) -> Any:
        if path != MAIN:
            return original(path)
        # In place and with the same length, because the interpreter is iterating over this list.
        sys.path_hooks[0] = original
        begin: list[Callable[[], None]] = []
        _leave_no_trace(lambda: begin.append(_serve(make_setup(), quick_end)))
        if _MAYBE_ARCHIVE:
            return original(path)
        # The normal case: the interpreter reads the program as a file.
        begin[0]()
        raise ImportError(path)

    sys.path_hooks[0] = hook


def _leave_no_trace(work: Callable[[], None]) -> None:
    """Call `work`, then forget the modules that it loaded and the folder of this code."""
    seen: list[dict[str, Any]] = [sys.modules, sys.path_importer_cache]
    before = [set(names) for names in seen]
    work()
    for names, known in zip(seen, before):  # noqa: B905 - Python 3.9 has no `strict`
        for name in set(names) - known:
            del names[name]
    sys.modules.pop("__future__", None)
    _forget_codec_of_pth_files()
    for path in [path for path in sys.path if path.startswith(HOME)]:
        sys.path.remove(path)
        sys.path_importer_cache.pop(path, None)


def _forget_codec_of_pth_files() -> None:
    """Forget the codec that Python 3.13 and newer load for a `.pth` file, if this one is the only one."""
    import encodings
    import os

    name = "utf_8_sig"
    # Without pathlib, which would have to be loaded.
    places = [path for path in sys.path if not path.startswith(HOME) and os.path.isdir(path)]  # noqa: PTH112
    if any(file.endswith(".pth") for path in places for file in os.listdir(path)):  # noqa: PTH208
        return
    if sys.modules.pop(f"encodings.{name}", None) is not None:
        import _codecs

        vars(encodings).pop(name, None)
        for key in (name, name.replace("_", "-")):
            vars(encodings)["_cache"].pop(key, None)
        # The interpreter has a cache of its own, which this clears.
        _codecs.unregister(encodings.search_function)
        _codecs.register(encodings.search_function)


def _serve(setup: Setup, quick_end: bool) -> Callable[[], None]:
    """Fork for each request; in a process that becomes a program, return the remaining work."""
    import _signal  # type: ignore[import-not-found]
    import _socket
    import gc
    import os

    # Before the rehearsal, so that it sees the final state of the memory.
    for like in range(2):
        setup.plan([like] * 8, "", range(CONTROL_FD + 1, CONTROL_FD + 8))
    # The current objects live as long as the interpreter. A collection at a program's end would copy every
    # page of them, which takes longer than most programs.
    end_by = _end_quickly() if quick_end else _end_as_usual
    gc.collect()
    gc.freeze()
    setup.trim()
    setup.used, end = rehearse(MAIN, CONTROL_FD, lambda: _await_job(setup))
    if end is not None:
        leave, end_by = end, end_by if quick_end else _end_quickly()
        return lambda: end_by(leave)
    _keep_first_process()
    requests = _socket.socket(fileno=CONTROL_FD)
    # Children are not waited for here, because the launcher watches them by pidfd.
    _signal.signal(_signal.SIGCHLD, _signal.SIG_IGN)
    requests.send(b"up")
    while True:
        data, ancillary, _, _ = requests.recvmsg(MAX_REQUEST, _socket.CMSG_SPACE(4 * (3 + MAX_GROUPS)))
        if not data:
            os._exit(0)
        fds = _descriptors(ancillary)
        request, *words = data.split()
        kind, *settings = (int(word) for word in words)
        pidfd, part = setup.start(settings, _gate(kind), fds)
        if part:
            requests.detach()
            leave = _be(part, setup, kind)
            return lambda: end_by(leave)
        attached = [(_socket.SOL_SOCKET, _socket.SCM_RIGHTS, pidfd.to_bytes(4, sys.byteorder))]
        requests.sendmsg([request], attached)
        for fd in (*fds, pidfd):
            os.close(fd)


def _keep_first_process() -> None:
    """Open the program of each sandbox's first process, which has no path inside the sandbox."""
    import fcntl
    import os

    try:
        fd = os.open(FIRST_PROCESS, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        fd = os.open("/dev/null", os.O_RDONLY | os.O_CLOEXEC)
    fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, FIRST_PROCESS_FD)
    os.close(fd)


def _descriptors(ancillary: Iterable[tuple[int, int, bytes]]) -> list[int]:
    content = b"".join(data for _, _, data in ancillary)
    return [int.from_bytes(content[at : at + 4], sys.byteorder) for at in range(0, len(content) - 3, 4)]


def _be(part: int, setup: Setup, kind: int) -> Callable[[int], None]:
    """Run as a process of a new sandbox; in the process of a Python program, return how that ends."""
    import _signal
    import os

    if part == FIRST:
        setup.hide()
        _look_after()
    if part == FEEDER:
        _feed(kind)
    if kind == KIND_ANY:
        setup.populate()
    _signal.signal(_signal.SIGCHLD, _signal.SIG_DFL)
    os.close(FIRST_PROCESS_FD)
    if kind != KIND_ANY:
        _default_signals()
        env = {name: os.environ[name] for name in os.environ if not name.startswith("PYTHON")}
        if kind == KIND_BASH:
            env["BASH_ENV"] = _BASH_ENV
        _become(_COMMANDS[kind], env)
    return _await_job(setup)


def _look_after() -> None:
    """Be the sandbox's first process: collect orphans, report the program's end, wait to be killed."""
    import _signal
    import os

    # With a handler in place even a tenant's signal would reach the first process.
    _signal.signal(_signal.SIGINT, _signal.SIG_DFL)
    _signal.signal(_signal.SIGCHLD, _signal.SIG_DFL)
    null = os.open("/dev/null", os.O_RDWR)
    for fd in (0, 1, 2):
        os.dup2(null, fd)
    if null > 2:
        os.close(null)
    while True:
        pid, status = os.wait()
        if pid == PROGRAM_NUMBER:
            break
    try:
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
        # Other processes are left and may hold the output: the server decides how long to wait.
        os.write(CONTROL_FD, b"ran %d\n" % _exit_code(status))
        if not os.read(CONTROL_FD, 1):
            os._exit(0)
        os.kill(-1, _signal.SIGKILL)
        while True:
            os.wait()
    except OSError:
        os.write(CONTROL_FD, b"end %d\n" % _exit_code(status))
    os.read(CONTROL_FD, 1)
    os._exit(0)


def _exit_code(status: int) -> int:
    import os

    code = os.waitstatus_to_exitcode(status)
    return code if code >= 0 else _DEATH_BY - code


def _gate(kind: int) -> str:
    """Return the path of the named pipe that an interpreter waits for: bash's first file, or the program."""
    if kind == KIND_ANY:
        return ""
    return _BASH_ENV if kind == KIND_BASH else PROGRAMS[kind]


def _feed(kind: int) -> None:
    """Send the program to an interpreter that waits to read it. Never returns.

    The interpreter has opened a named pipe. When the program runs, the file has replaced the pipe.
    """
    import marshal
    import os

    gate = _gate(kind)
    # Use the code once, so that it is fast the next time.
    marshal.loads(marshal.dumps({"": [b""]}, 2))  # noqa: S302
    _make_folder(HOME)
    _write_file(f"{HOME}.try", 0o600, b"")
    os.unlink(f"{HOME}.try")  # noqa: PTH108 - pathlib would have to be loaded
    pipe = os.open(gate, os.O_WRONLY | os.O_CLOEXEC)
    try:
        job = _receive_job()
        program = memoryview(_BASH_BEGINS)
        for file, mode, content in job["files"]:
            if file != gate:
                _write_file(file, mode, content)
                continue
            _write_file(f"{gate}.new", mode, content)
            os.rename(f"{gate}.new", gate)  # noqa: PTH104
            program = memoryview(content)
        if kind == KIND_BASH:
            os.unlink(gate)  # noqa: PTH108
        while program:
            program = program[os.write(pipe, program) :]
        # The reader waits for this end, and the kernel frees this process's memory before it closes
        # descriptors.
        os.close(pipe)
    finally:
        os._exit(0)


def _await_job(setup: Setup) -> Callable[[int], None]:
    """Report that the sandbox is ready, wait for its job, write its files and start it.

    Returns:
        In the process of a Python program, how it ends.
    """
    import os

    job = _receive_job()
    for path, mode, content in job["files"]:
        _write_file(path, mode, content)
        if path == MAIN and b"PK\5\6" in content:
            _MAYBE_ARCHIVE.append(path)
    if job["run"] is None:
        os.environ.update(job["env"])
        sys.argv += job["args"]
        getattr(sys, "orig_argv", []).extend(job["args"])
        os.close(CONTROL_FD)
    else:
        _execute(job, setup)
    return _early_end() if job["early"] else os._exit


def _early_end() -> Callable[[int], None]:
    """Return a function that ends this process and reports its end before the kernel frees its memory."""
    import os

    close, kill, leave = os.closerange, os.kill, os._exit

    def end(code: int) -> None:
        try:
            kill(-1, 0)
        except ProcessLookupError:
            # Close the output before the report of the end.
            close(1, 3)
            kill(1, ENDING_SIGNAL)
        # Other processes are left and may hold the output, so the first process reports the end.
        leave(code)

    return end


def _receive_job() -> Mapping[str, Any]:
    """Report that the sandbox is ready, wait for its job, create its folders and open its standard input."""
    import _socket
    import marshal
    import os

    for folder in _FOLDERS:
        _make_folder(folder)
    control = _socket.socket(fileno=CONTROL_FD)
    control.send(b"ready\n")
    data, ancillary, _, _ = control.recvmsg(MAX_JOB, _socket.CMSG_SPACE(8), _socket.MSG_CMSG_CLOEXEC)
    if not data:
        os._exit(0)
    fds = _descriptors(ancillary)
    cpus, _, data = data.partition(b" ")
    if cpus:
        _run_on([int(cpu) for cpu in cpus.split(b",")])
    job: Mapping[str, Any] = marshal.loads(data)  # noqa: S302 - from the server
    if job["attached"]:
        with open(fds.pop(0), "rb") as content:  # noqa: PTH123 - a descriptor
            job = marshal.load(content)  # noqa: S302
    if fds:
        os.dup2(fds[0], 0)
        os.close(fds[0])
    for folder in job["folders"]:
        _make_folder(folder)
    control.detach()
    return job


def _run_on(cpus: list[int]) -> None:
    """Let the sandbox's program run on these processors alone."""
    import os

    try:
        os.sched_setaffinity(0, cpus)
        if os.getpid() != PROGRAM_NUMBER:
            # An interpreter that waits, with all its threads.
            for thread in os.listdir(f"/proc/{PROGRAM_NUMBER}/task"):  # noqa: PTH208 - pathlib would have to be loaded
                os.sched_setaffinity(int(thread), cpus)
    except OSError:
        # A processor has gone.
        return


def _end_quickly() -> Callable[[Callable[[int], None]], None]:
    """Return a function that lets an interpreter end quickly, given the function that ends its process.

    At its end it is spared what no program can observe. To take down what was there before the program means to
    copy nearly all memory that this process shares with the zygote. So the modules of the start are kept out of
    it, unless the program has added something to one, and the process ends when the interpreter has taken down
    the program's own modules: none of its code can run any more then.
    """
    import atexit

    ends: list[Callable[[int], None]] = []

    class Last:
        """An object that is destroyed when the interpreter clears `sys`, the second to last module."""

        def __del__(self, ends: list[Callable[[int], None]] = ends) -> None:
            ends[0](0)

    keep: dict[str, Any] = {
        name: (module, len(vars(module)))
        for name, module in sys.modules.items()
        if name not in {"__main__", "sys", "builtins"}
    }

    def at_end() -> None:
        try:
            sys._getframe(1)
        except ValueError:
            pass
        else:
            # A program called the function and continues.
            return
        for name, (module, size) in keep.items():
            if sys.modules.get(name) is module and len(vars(module)) == size:
                del sys.modules[name]
        # The object refers to itself, so it is never freed.
        keep[""] = keep
        left = getattr(sys.modules.get("__main__"), "__dict__", {})
        if not ({"__file__", "__cached__"} & left.keys() or hasattr(sys, "last_type")) and "__name__" in left:
            # The interpreter takes these two away after a program that neither failed nor called `sys.exit`.
            vars(sys)["unsandbox"] = Last()

    def end_by(leave: Callable[[int], None]) -> None:
        ends.append(leave)
        # What was forgotten meanwhile would be the program's own, if it loaded it again.
        for name in [name for name in keep if name not in sys.modules]:
            del keep[name]
        _renew_main_module()
        # Registered first, called last.
        atexit.register(at_end)

    return end_by


def _end_as_usual(leave: Callable[[int], None]) -> None:
    """Do not change the shutdown of the interpreter."""
    del leave
    _renew_main_module()


def _renew_main_module() -> None:
    """Replace the program's module, because the collector ignores one that was frozen in the zygote."""
    fresh = type(sys)("__main__")
    vars(fresh).update(vars(sys.modules["__main__"]))
    sys.modules["__main__"] = fresh


def _make_folder(path: str) -> None:
    import os

    try:
        os.mkdir(path)  # noqa: PTH102 - pathlib would have to be loaded
    except FileExistsError:
        pass
    except FileNotFoundError:
        os.makedirs(path, exist_ok=True)  # noqa: PTH103


def _write_file(path: str, mode: int, content: bytes) -> None:
    import os

    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
    try:
        fd = os.open(path, flags, 0o600)
    except FileNotFoundError:
        os.makedirs(os.path.dirname(path), exist_ok=True)  # noqa: PTH103, PTH120
        fd = os.open(path, flags, 0o600)
    view = memoryview(content)
    while view:
        view = view[os.write(fd, view) :]
    os.fchmod(fd, mode & 0o777)
    os.close(fd)


def _execute(job: Mapping[str, Any], setup: Setup) -> None:
    """Run the compile step, if there is one, and become the program. Never returns."""
    import os

    _default_signals()
    try:
        if job["compile"] is not None:
            # A compiler may run code from its source, which must not reach this process and its socket.
            setup.hide()
            child = os.fork()
            if child == 0:
                os.dup2(os.open("/dev/null", os.O_RDONLY), 0)
                os.dup2(2, 1)
                _become(job["compile"], job["compile_env"])
            code = _exit_code(os.waitpid(child, 0)[1])
            if code:
                os.write(CONTROL_FD, b"compile %d\n" % code)
                os._exit(code)
            if job["report"] is not None:
                _hand_over(job["report"])
            os.write(CONTROL_FD, b"run 0\n")
            if job["apart"]:
                # Wait until the server has the compiler's output.
                os.read(CONTROL_FD, 8)
        if job["said"]:
            os.write(2, job["said"])
        _become(job["run"], job["env"])
    finally:
        os._exit(127)


def _hand_over(path: str) -> None:
    """Send the server a descriptor of the compiled program, and wait until it has read it."""
    import _socket
    import os

    try:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return
    control = _socket.socket(fileno=CONTROL_FD)
    attached = [(_socket.SOL_SOCKET, _socket.SCM_RIGHTS, fd.to_bytes(4, sys.byteorder))]
    control.sendmsg([b"compiled\n"], attached)
    control.recv(2)
    control.detach()
    os.close(fd)


def _default_signals() -> None:
    """Restore the default action of the signals that this interpreter ignores."""
    import _signal

    for number in (_signal.SIGPIPE, _signal.SIGXFSZ):
        _signal.signal(number, _signal.SIG_DFL)


def _become(command: list[str], env: Mapping[str, str]) -> None:
    """Execute a program with the error messages of a shell. Never returns."""
    import os

    name, problem = command[0], "not found"
    # Not `os.execvpe`, which imports a module.
    folders = [""] if "/" in name else env.get("PATH", os.defpath).split(":")
    for folder in folders:
        try:
            os.execve(f"{folder}/{name}" if folder else name, command, env)  # noqa: S606 - that is the job
        except (FileNotFoundError, NotADirectoryError):
            continue
        except OSError as error:
            problem = str(error.strerror)
    os.write(2, f"sh: exec: {name}: {problem}\n".encode("utf-8", "surrogateescape"))
    os._exit(127 if problem == "not found" else 126)
