"""Caches of toolchains: made once by the engine, seen by every sandbox, written by none."""

import dataclasses
import io
import os
import tarfile
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.sandbox.support import eventually

from unsandbox.engine.engine import Engine
from unsandbox.protocol import models
from unsandbox.sandbox import BubblewrapBackend, Limits, SandboxError, System, load_languages, pool_for
from unsandbox.sandbox.host.warm.pool import PoolState
from unsandbox.sandbox.languages.caches import ToolchainCaches, _unpack, with_caches
from unsandbox.sandbox.languages.table import Cache, Language, LanguageTable
from unsandbox.sandbox.system import CACHES, HOST

TINY = Language(
    "tiny",
    source="main.tiny",
    run=["sh", "{src}", "{option}"],
    executable="sh",
    packages=[],
    tier="more",
    version=["sh"],
    hello="echo hello",
    time_s=77,
    cache=Cache(
        program="echo of the engine",
        prepare=["sh", "-c", "mkdir $CACHE/below && sh {src} >$CACHE/below/made"],
        env={"TINY": "{cache}/below"},
        options={"option": "--cache={cache}"},
    ),
)
SPOIL = """
for path in $TINY/made $TINY $TINY/..; do
    echo of a tenant >$path || rm -rf $path || mv $path /tmp || chmod 777 $path || ln -sf /tmp $path || touch $path/new
done 2>/dev/null
mount -o remount,rw $TINY/.. 2>/dev/null
cat $TINY/made
ls -A $TINY $TINY/..
"""


@pytest.fixture
def system() -> Iterator[System]:
    with tempfile.TemporaryDirectory(dir="/var/tmp") as name:
        Path(name).chmod(0o755)
        yield with_caches(HOST, f"{name}/caches")


async def outcome_of(backend, code, **fields):
    return await (await backend.start(TINY.build_spec(code, **fields))).wait()


@pytest.mark.parametrize("warm", [False, True], ids=["cold", "warm"])
async def test_a_cache_is_made_once_and_no_program_can_change_it(system, warm):
    caches = ToolchainCaches(system)
    assert caches.place(TINY) is None
    pool = pool_for(load_languages(), 1, 1, Limits()) if warm else None
    async with BubblewrapBackend(system=system, pool=pool) as backend:
        if warm:
            await eventually(lambda: backend.pool.state is PoolState.SERVING)
        await caches.make(TINY, backend)
        place = caches.place(TINY)
        made = system.caches / Path(place).name / "below/made"
        assert made.read_text() == "of the engine\n"
        before = made.stat()
        await caches.make(TINY, backend)
        assert made.stat().st_mtime_ns == before.st_mtime_ns, "made again"
        outcome = await outcome_of(backend, f"echo $1; {SPOIL}", cache=place)
        said = outcome.stdout.data.decode().split()
        assert said == [
            f"--cache={place}",
            *["of", "the", "engine"],
            *f"{place}/below: made {place}/below/..: below".split(),
        ]
        assert [path.name for path in system.caches.iterdir()] == [Path(place).name]
        assert made.read_text() == "of the engine\n"


async def test_a_cache_that_cannot_be_made_leaves_nothing(system, backend):
    assert TINY.cache is not None
    broken = dataclasses.replace(
        TINY, cache=dataclasses.replace(TINY.cache, prepare=["sh", "-c", "echo no luck >&2; false"])
    )
    with pytest.raises(SandboxError, match="no luck"):
        await ToolchainCaches(system).make(broken, backend)
    assert list(system.caches.iterdir()) == []


async def test_without_a_cache_programs_run_as_ever(backend):
    outcome = await outcome_of(backend, "echo $# ${TINY-unset}")
    assert outcome.stdout.data == b"0 unset\n"


def test_another_toolchain_has_another_cache(system, tmp_path):
    tool = tmp_path / "usr/bin/tool"
    tool.parent.mkdir(parents=True)
    tool.write_text("#!/bin/sh\n")
    tool.chmod(0o755)
    caches = ToolchainCaches(dataclasses.replace(system, root=tmp_path))
    language = dataclasses.replace(TINY, executable="tool")
    (system.caches / caches.folder_name(language)).mkdir()
    assert caches.place(language).startswith(f"{CACHES}/tiny-")
    os.utime(tool, (1, 1))
    assert ToolchainCaches(dataclasses.replace(system, root=tmp_path)).place(language) is None


def test_a_folder_that_others_may_write_to_is_not_used(tmp_path, monkeypatch):
    (tmp_path / "open").mkdir()
    (tmp_path / "open").chmod(0o777)
    (tmp_path / "link").symlink_to(tmp_path)
    (tmp_path / "file").touch()
    for name in ("open", "link", "file", "file/below"):
        assert with_caches(HOST, str(tmp_path / name)) == HOST
    monkeypatch.setenv("UNSANDBOX_TOOLCHAIN_CACHE", "off")
    assert with_caches(HOST) == HOST
    monkeypatch.setenv("UNSANDBOX_TOOLCHAIN_CACHE", str(tmp_path / "mine"))
    assert with_caches(HOST).caches == tmp_path / "mine"


@pytest.mark.parametrize("name", ["../out", "/out", "a/../../out"])
def test_nothing_is_unpacked_outside(tmp_path, name):
    written = io.BytesIO()
    with tarfile.open(fileobj=written, mode="w") as tar:
        tar.addfile(tarfile.TarInfo(name), io.BytesIO())
    (tmp_path / "cache").mkdir()
    with pytest.raises(OSError, match="must not contain"):
        _unpack(written.getvalue(), tmp_path / "cache")


async def test_the_engine_makes_a_cache_beside_the_first_job(system):
    table = LanguageTable([*load_languages().values(), TINY], system)
    engine = Engine(languages=table)
    await engine.start()
    try:

        async def says(code):
            record = await engine.jobs.submit("me", models.ExecuteRequest(language="tiny", code=code))
            assert record.spec is not None
            assert record.spec.limits.wall_s == 77
            await record.ended.wait()
            return record.as_job().stdout

        assert await says("echo ${TINY-unset}") == "unset\n"
        await eventually(lambda: engine.caches.place(TINY) is not None)
        assert await says("cat $TINY/made") == "of the engine\n"
    finally:
        await engine.stop()
