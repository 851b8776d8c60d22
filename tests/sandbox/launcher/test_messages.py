"""What the processes of a sandbox agree on: messages, and numbers of descriptors."""

from __future__ import annotations

import array
import json
import os
import resource
import socket
import types
from dataclasses import fields, is_dataclass
from typing import Any, Union, get_args, get_origin, get_type_hints

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.sandbox.support import launchers

from unsandbox.sandbox import BubblewrapBackend, SandboxError, SandboxSpec
from unsandbox.sandbox.launcher import fd_numbers, messages
from unsandbox.sandbox.launcher.cgroups import Bounds
from unsandbox.sandbox.launcher.connection import ServerConnection
from unsandbox.sandbox.persistent_spec import PersistentSpec
from unsandbox.sandbox.zygote import lockdown

# Command lines hold what file names may: any bytes, as Python decodes them.
WORDS = st.text(st.characters(max_codepoint=0x10FFFF, categories=None), max_size=20)


def values(hint: Any) -> st.SearchStrategy[Any]:
    origin, arguments = get_origin(hint), get_args(hint)
    if is_dataclass(hint):
        return instances(hint)
    if origin in (Union, types.UnionType):
        return st.one_of(*map(values, arguments))
    if origin is tuple and arguments[-1] is Ellipsis:
        return st.lists(values(arguments[0]), max_size=5).map(tuple)
    if origin is tuple:
        return st.tuples(*map(values, arguments))
    if origin is dict:
        return st.dictionaries(*map(values, arguments), max_size=5)
    return {
        int: st.integers(),
        float: st.floats(allow_nan=False, allow_infinity=False),
        str: WORDS,
        bool: st.booleans(),
        bytes: st.binary(max_size=64),
        types.NoneType: st.none(),
    }[hint]


def instances(known: type[Any]) -> st.SearchStrategy[Any]:
    return st.builds(known, **{name: values(hint) for name, hint in get_type_hints(known).items()})


ANY = st.one_of(*map(instances, messages.KINDS.values()))


@given(ANY)
def test_a_message_arrives_as_it_was_sent(message):
    data = messages.encode(message)
    arrived = messages.decode(data)
    assert arrived == message
    assert type(arrived) is type(message)
    assert messages.encode(arrived) == data


@given(st.binary(max_size=200))
def test_what_is_no_message_is_refused(data):
    with pytest.raises(messages.MessageError):
        messages.decode(data)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | WORDS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(WORDS, inner, max_size=3),
    max_leaves=10,
)


@given(ANY, st.data())
def test_a_message_with_another_field_is_refused_or_is_another_message(message, data):
    content = json.loads(messages.encode(message))
    name = data.draw(st.sampled_from([*content, "another"]))
    content[name] = data.draw(JSON)
    packet = json.dumps(content).encode()
    try:
        arrived = messages.decode(packet)
    except messages.MessageError as error:
        # What it holds may be a tenant's.
        assert len(str(error)) < 200
        return
    assert messages.decode(messages.encode(arrived)) == arrived


@given(ANY, st.data())
def test_a_message_without_one_of_its_fields_has_the_default_or_is_refused(message, data):
    content = json.loads(messages.encode(message))
    name = data.draw(st.sampled_from([*content]))
    del content[name]
    try:
        arrived = messages.decode(json.dumps(content).encode())
    except messages.MessageError:
        return
    (item,) = (item for item in fields(arrived) if item.name == name)
    assert getattr(arrived, name) == (
        item.default_factory() if callable(item.default_factory) else item.default
    )


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"[]",
        b"null",
        b'"kill"',
        b"{}",
        b'{"job":1}',
        b'{"kind":"unknown","job":1}',
        b'{"kind":["kill"],"job":1}',
        b'{"kind":"kill"}',
        b'{"kind":"kill","job":true}',
        b'{"kind":"kill","job":1.0}',
        b'{"kind":"kill","job":"1"}',
        b'{"kind":"kill","job":null}',
        b'{"kind":"kill","job":1,"more":2}',
        b'{"kind":"answered","ask":1,"exit_code":NaN}',
        b'{"kind":"ended","job":1,"exit_code":0,"cpu_s":1e999}',
        b'{"kind":"ended","job":1,"exit_code":0,"cpu_s":' + b"9" * 1000 + b"}",
        b'{"kind":"ended","job":1,"exit_code":0,"cpu_s":true}',
        b'{"kind":"prepare_warm","zygote":1,"settings":[],"bounds":{"memory_bytes":1,"processes":1}}',
        b'{"kind":"prepare_warm","zygote":1,"settings":{},"bounds":{"memory_bytes":1,"processes":1,"vcpu":1}}',
        b'{"kind":"ready","cgroup_parents":{"memory":1}}',
        b'{"kind":"failed","error":"' + b"\xff" + b'"}',
        b"[" * 60000,
        b'{"kind":"failed","error":' + b'{"a":' * 20000,
        b'{"kind":"kill","job":' + b"9" * 60000 + b"}",
    ],
    ids=lambda data: data[:40].decode("latin-1"),
)
def test_what_is_refused(data):
    with pytest.raises(messages.MessageError):
        messages.decode(data)


def test_the_terminal_of_a_program_has_two_numbers():
    details = messages.ProgramDetails(
        argv=("true",), env={}, cwd="/", terminal=(80, 24), helper=None, filter=b"\0\1",
        limits=messages.ProcessLimits(processes=5),
    )  # fmt: skip
    data = messages.encode(details)
    assert messages.decode_details(data) == details
    for wrong in (b"[80]", b"[80,24,1]", b'"80"', b"[80,null]"):
        with pytest.raises(messages.MessageError, match="terminal"):
            messages.decode_details(data.replace(b"[80,24]", wrong))
    with pytest.raises(messages.MessageError, match="filter"):
        messages.decode_details(data.replace(b'"AAE="', b'"AAE"'))
    with pytest.raises(messages.MessageError):
        messages.decode_details(b'{"kind":"kill","job":1}')


def test_a_message_that_fits_no_packet_is_not_sent():
    message = messages.Failed("x" * messages.MAX_MESSAGE)
    with pytest.raises(messages.MessageError, match="the most is 65536"):
        messages.encode(message)
    assert messages.decode(messages.encode(message, None)) == message
    with pytest.raises(messages.MessageError):
        messages.encode(messages.Ended(job=1, exit_code=0, cpu_s=float("nan")))


# Descriptors


def packet(message: messages.Message, fds: list[int]) -> tuple[list[bytes], list[Any]]:
    return [messages.encode(message)], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))]


def a_request(job: int) -> messages.Start:
    return messages.Start(job=job, program="/bin/true", argv=("true",), fds=(), bounds=Bounds(1, 1, 1.0))


def has_ended(connection: ServerConnection) -> bool:
    return connection.closed


def test_a_request_has_the_descriptors_that_came_before_it():
    here, there = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    null = os.open("/dev/null", os.O_RDONLY)
    before = len(os.listdir("/proc/self/fd"))
    with here, there:
        connection = ServerConnection(there)
        many = [null] * messages.FDS_PER_MESSAGE
        # A server that was interrupted in the middle of a request, and its next request.
        here.sendmsg(*packet(messages.MoreDescriptors(1), many))
        here.sendmsg(*packet(messages.MoreDescriptors(2), many))
        here.sendmsg(*packet(a_request(2), [null]))
        assert connection.receive() is None
        assert connection.receive() is None
        received = connection.receive()
        assert received is not None
        request, fds = received
        assert request == a_request(2)
        assert len(fds) == messages.FDS_PER_MESSAGE + 1
        assert not any(os.get_inheritable(fd) for fd in fds)
        for fd in fds:
            os.close(fd)
        here.sendmsg([b"{}"], packet(a_request(3), [null])[1])
        with pytest.raises(messages.MessageError):
            connection.receive()
        assert len(os.listdir("/proc/self/fd")) == before
        assert not has_ended(connection)
        here.close()
        assert connection.receive() is None
        assert has_ended(connection)
    os.close(null)


async def test_a_launcher_without_room_for_descriptors_refuses_and_goes_on():
    others = {*launchers()}
    async with BubblewrapBackend() as backend:
        sandbox = await backend.open_persistent(PersistentSpec())
        (launcher,) = {*launchers()} - others
        limits = resource.prlimit(launcher, resource.RLIMIT_NOFILE)
        held = len(os.listdir(f"/proc/{launcher}/fd"))
        resource.prlimit(launcher, resource.RLIMIT_NOFILE, (held + 3, limits[1]))
        job = await backend.start(SandboxSpec(run=["true"]))
        with pytest.raises(SandboxError, match="too many open files"):
            await job.wait()
        with pytest.raises(SandboxError, match="too many open files"):
            await sandbox.run(["true"])
        resource.prlimit(launcher, resource.RLIMIT_NOFILE, limits)
        assert (await (await backend.start(SandboxSpec(run=["true"]))).wait()).exit_code == 0
        assert (await sandbox.run(["true"])).exit_code == 0
        assert {*launchers()} - others == {launcher}
        await sandbox.close()


def test_programs_that_cannot_import_the_table_of_descriptors_agree_with_it():
    assert lockdown.CONTROL_FD == fd_numbers.ZYGOTE_FD == fd_numbers.CONTROL_FD
    # A request to a zygote brings its descriptors above those that it holds itself.
    assert lockdown.FIRST_PROCESS_FD > fd_numbers.FIRST_FILE_FD


def test_descriptors_of_one_program_have_different_numbers():
    programs = {
        "a job's bubblewrap": (
            "CONTROL_FD", "ARGS_FD", "SECCOMP_FD", "INFO_FD", "SCRIPT_FD", "BLOCK_FD", "FIRST_FILE_FD",
        ),
        "a persistent sandbox's bubblewrap": (
            "READY_FD", "ARGS_FD", "SECCOMP_FD", "INFO_FD", "INIT_FD", "BLOCK_FD", "IMAGE_FD",
            "LIFE_FD",
        ),
        "a zygote": ("ZYGOTE_FD", "ARGS_FD", "INFO_FD", "ZYGOTE_FILE_FD"),
        "a job's runsc": ("CONTROL_FD", "EXTRA_FD", "INFO_FD", "SCRIPT_FD", "ARCHIVE_FD"),
        "a persistent sandbox's runsc": ("CHECKPOINT_FD", "INFO_FD"),
    }  # fmt: skip
    for program, names in programs.items():
        numbers = [getattr(fd_numbers, name) for name in names]
        assert len({*numbers}) == len(numbers), program
        assert min(numbers) > 2, program
    named = {name for names in programs.values() for name in names}
    assert named == {name for name in vars(fd_numbers) if name.endswith("_FD")}


def test_a_shell_can_close_the_descriptors_of_a_job_script():
    assert max(fd_numbers.CONTROL_FD, fd_numbers.EXTRA_FD, fd_numbers.SCRIPT_FD, fd_numbers.ARCHIVE_FD) < 10
