"""Uses the package `e2b` of any version, and prints what came of each call as JSON. Run in its environment."""

import asyncio
import json
import os
import sys
import urllib.error
import urllib.request

import e2b
from e2b import AsyncSandbox, PtySize, Sandbox, SandboxQuery

OPTIONS = {"timeout": 120, "allow_internet_access": False}
seen = {}


def refused(call, *arguments, **options):
    """Return the name of the error that a call raises."""
    try:
        call(*arguments, **options)
    except Exception as error:
        return type(error).__name__
    return "nothing"


def commands(sandbox):
    seen["env"] = sandbox.commands.run("echo $FOO $X; pwd; echo e >&2", envs={"X": "1"}).stdout
    try:
        sandbox.commands.run("echo out; exit 3")
    except e2b.CommandExitException as error:
        seen["exit"] = [error.exit_code, error.stdout]
    pieces = []
    sandbox.commands.run("echo a; echo b >&2", on_stdout=pieces.append, on_stderr=pieces.append)
    seen["callbacks"] = sorted(pieces)
    live = sandbox.commands.run(
        "for i in 1 2 3; do echo $i; done; read x; echo $x", background=True, stdin=True
    )
    seen["listed"] = [process.pid for process in sandbox.commands.list()] == [live.pid]
    sandbox.commands.send_stdin(live.pid, "hello\n")
    seen["live"] = live.wait().stdout
    sleeping = sandbox.commands.run("sleep 100", background=True)
    again = sandbox.commands.connect(sleeping.pid)
    seen["kill"] = [sandbox.commands.kill(sleeping.pid), sandbox.commands.kill(99)]
    try:
        again.wait()
    except e2b.CommandExitException as error:
        seen["killed"] = error.exit_code
    seen["timeout"] = refused(sandbox.commands.run, "sleep 100", timeout=0.5)
    seen["cwd"] = refused(sandbox.commands.run, "true", cwd="/nope")
    seen["root"] = refused(sandbox.commands.run, "true", user="root")


def terminal(sandbox):
    live = sandbox.pty.create(PtySize(rows=24, cols=80))
    sandbox.pty.resize(live.pid, PtySize(rows=30, cols=101))
    sandbox.pty.send_stdin(live.pid, b"echo $((6*7)) $(stty size); exit\n")
    output = []
    live.wait(on_pty=output.append)
    seen["pty"] = b"42 30 101" in b"".join(output)


def files(sandbox):
    data = os.urandom(7_000_000)
    sandbox.files.write("d/x.bin", data)
    seen["bytes"] = bytes(sandbox.files.read("d/x.bin", format="bytes")) == data
    info = sandbox.files.get_info("d/x.bin")
    seen["info"] = [info.name, info.path, info.size, info.permissions, info.owner]
    seen["make_dir"] = [sandbox.files.make_dir("d"), sandbox.files.make_dir("e/f")]
    seen["renamed"] = sandbox.files.rename("d/x.bin", "d/y.bin").path
    seen["exists"] = [sandbox.files.exists("d/y.bin"), sandbox.files.exists("d/x.bin")]
    seen["list"] = sorted(entry.path for entry in sandbox.files.list("/home/user", depth=2))
    seen["missing"] = isinstance_of(sandbox.files.read, "nope") and isinstance_of(sandbox.files.list, "nope")
    sandbox.files.remove("d")
    seen["removed"] = sandbox.files.exists("d")
    written = sandbox.files.write_files([{"path": "m1", "data": "1"}, {"path": "/tmp/m2", "data": b"2"}])
    seen["written"] = [entry.path for entry in written]
    seen["seen_inside"] = sandbox.commands.run("cat /home/user/m1 /tmp/m2").stdout
    sandbox.commands.run("printf '\\x80' > /tmp/odd; ln -s /tmp/m2 link")
    seen["link"] = sandbox.files.read("link")


def isinstance_of(call, *arguments):
    try:
        call(*arguments)
    except e2b.NotFoundException:
        return True
    return False


def signed(sandbox):
    url = sandbox.download_url("m1", use_signature_expiration=100)
    seen["signed"] = urllib.request.urlopen(url).read().decode()
    for wrong in (
        url.replace("v1_", "v1_x"),
        url.replace("path=m1", "path=m2"),
        url.replace("expiration=", "expiration=1"),
    ):
        try:
            urllib.request.urlopen(wrong)
        except urllib.error.HTTPError as error:
            seen.setdefault("unsigned", set()).add(error.code)
    seen["unsigned"] = sorted(seen["unsigned"])


def control(sandbox):
    sandbox.set_timeout(200)
    info = sandbox.get_info()
    seen["metadata"] = info.metadata
    seen["lasts"] = round((info.end_at - info.started_at).total_seconds()) >= 200

    def ids(query):
        return [entry.sandbox_id for entry in Sandbox.list(query).next_items()]

    seen["query"] = [
        ids(SandboxQuery(metadata={"a": "b c"})) == [sandbox.sandbox_id],
        ids(SandboxQuery(metadata={"a": "z"})),
    ]
    seen["template"] = refused(Sandbox.create, "nope")
    seen["key"] = refused(Sandbox.create, api_key="e2b_" + "0" * 40)
    other = Sandbox.connect(sandbox.sandbox_id)
    seen["connected"] = other.commands.run("echo again").stdout
    if hasattr(Sandbox, "fork"):
        copies = sandbox.fork(count=2)
        seen["fork"] = [copy.files.read("m1") for copy in copies]
        for copy in copies:
            copy.kill()
    sample = sandbox.get_metrics()[-1]
    seen["metrics"] = [sample.cpu_count, sample.mem_total >= sample.mem_used > 0, sample.disk_total > 0]
    pause = getattr(sandbox, "pause", None) or sandbox.beta_pause
    pause()
    seen["paused"] = [sandbox.is_running(), sandbox.get_info().state.value]
    seen["resumed"] = Sandbox.connect(sandbox.sandbox_id).files.read("m1")
    seen["end"] = [sandbox.kill(), sandbox.kill(), sandbox.is_running()]
    seen["gone"] = refused(sandbox.commands.run, "true") in ("SandboxNotRunningException", "TimeoutException")


async def asynchronously():
    async with await AsyncSandbox.create(**OPTIONS) as sandbox:
        output = []
        done = await sandbox.commands.run("echo async", on_stdout=output.append)
        await sandbox.files.write("f", "g")
        seen["async"] = [done.stdout, output, await sandbox.files.read("f")]


def main():
    sandbox = Sandbox.create(metadata={"a": "b c"}, envs={"FOO": "bar"}, **OPTIONS)
    commands(sandbox)
    terminal(sandbox)
    files(sandbox)
    signed(sandbox)
    control(sandbox)
    asyncio.run(asynchronously())
    print(json.dumps(seen))


sys.exit(main())
