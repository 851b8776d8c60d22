"""Languages that no registry here has: a stand-in of the toolchain shows the command line that is built, no more."""

import pytest

from unsandbox.sandbox import BubblewrapBackend, load_languages

WANTED = {
    "dart": "dart run /work/main.dart one",
    "dotnet": "dotnet run /work/main.cs -- one",
    "fsharp": "dotnet fsi --quiet --nologo /work/main.fsx one",
    "julia": "julia --startup-file=no /work/main.jl one",
    "powershell": "pwsh -NoLogo -NoProfile -NonInteractive -File /work/main.ps1 one",
    "swift": "swiftc -o /work/main /work/main.swift\nprogram one",
    "v": "v run /work/main.v one",
}
STAND_IN = """#!/bin/sh
echo "${0##*/} $*" >&2
[ "$1" != -o ] || { printf '#!/bin/sh\\necho "program $*" >&2' >"$2"; chmod +x "$2"; }
"""


def test_these_are_all():
    assert set(WANTED) == {name for name, language in load_languages().items() if not language.can_be_installed}


@pytest.mark.parametrize("name", WANTED)
async def test_the_command_line(small_system, name):
    table = load_languages(system=small_system)
    language = table[name]
    assert name not in {found.name for found in table.available()}
    program = small_system.usr / "bin" / language.executable
    program.write_text(STAND_IN)
    program.chmod(0o755)
    assert table.resolve(name) is language
    async with BubblewrapBackend(system=small_system) as backend:
        job = await backend.start(language.build_spec(language.hello, args=["one"]))
        outcome = await job.wait()
    assert (outcome.stderr.data.decode(), outcome.exit_code) == (WANTED[name] + "\n", 0)
