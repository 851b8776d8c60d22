"""Detection against the tables of the wire document, 7.2 and 7.3, written here a second time as data."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from unsandbox.protocol.languages import EXTENSIONS, INTERPRETERS, detect_language, detect_shebang
from unsandbox.sandbox import load_languages

BY_EXTENSION = """
    py python; js javascript; ts typescript; rb ruby; php php; pl perl; sh bash; r r; R r; lua lua; go go; rs rust;
    c c; cpp cpp; cc cpp; cxx cpp; java java; kt kotlin; m objc; cs csharp; fs fsharp; hs haskell; ml ocaml;
    clj clojure; scm scheme; ss scheme; erl erlang; ex elixir; exs elixir; jl julia; d d; nim nim; zig zig;
    cr crystal; dart dart; groovy groovy; scala scala; f90 fortran; f95 fortran; lisp commonlisp; lsp commonlisp;
    cob cobol; tcl tcl; raku raku; pl6 raku; p6 raku; pro prolog; p prolog; 4th forth; forth forth; fth forth;
    awk awk; ps1 powershell; v v
"""
DIALECTS = {"chez", "chicken", "clisp", "gambit", "luajit", "pypy", "zigcc"}
"""Their files are those of scheme, commonlisp, lua, python and c; they are asked for by name."""
BY_INTERPRETER = """
    python python; node javascript; ruby ruby; perl perl; php php; bash bash; sh bash; lua lua; tclsh tcl; wish tcl;
    raku raku; perl6 raku; julia julia; Rscript r; groovy groovy; scala scala; swift swift; racket racket;
    scheme scheme; guile scheme; clisp commonlisp; sbcl commonlisp; ocaml ocaml; elixir elixir
"""


def table(text):
    return [tuple(row.split()) for row in text.split(";")]


@pytest.mark.parametrize(("extension", "language"), table(BY_EXTENSION))
def test_extension(extension, language):
    for name in (
        f"main.{extension}",
        f"/a/b.c/main.{extension}",
        f"C:\\dir.x\\a b.{extension}",
        f"a.b.{extension}",
    ):
        assert detect_language(name) == language
    assert detect_language(f"MAIN.{extension.upper()}") == language


@pytest.mark.parametrize(
    "name", ["", "Makefile", ".py", "dir.py/", "dir.py/main", "main.", "main.txt", "py", "a.py.bak", "."]
)
def test_no_known_extension(name):
    assert detect_language(name) is None


@given(st.text())
def test_any_name_gives_a_known_language_or_none(name):
    assert detect_language(name) in {None, *EXTENSIONS.values()}


@given(st.text(), st.sampled_from(sorted(EXTENSIONS)))
def test_folders_do_not_matter(folder, extension):
    assert detect_language(f"{folder}/main.{extension}") == EXTENSIONS[extension]


SHEBANGS = (
    "#!/usr/bin/{}",
    "#!/usr/local/bin/{} -w --flag",
    "#! /bin/{}",
    "#!/usr/bin/env {}",
    "#!/usr/bin/env -S {} -u",
    "#!/usr/bin/env -i A=1 B=2 {}",
    "#!{}",
    "\ufeff#!/bin/{}",
)


@pytest.mark.parametrize(("interpreter", "language"), table(BY_INTERPRETER))
def test_shebang(interpreter, language):
    for line in SHEBANGS:
        for end in ("", "\n", "\r\n", "\n#!/usr/bin/other\n"):
            assert detect_shebang(line.format(interpreter) + end) == language, (line, end)


@pytest.mark.parametrize(
    ("name", "language"),
    [("python3", "python"), ("python3.12", "python"), ("lua5.4", "lua"), ("tclsh8.6", "tcl"), ("ruby3.1", "ruby"),
     ("perl6", "raku"), ("perl5.36", "perl"), ("php8.2", "php"), ("guile-3.0", "scheme"), ("node20", "javascript")],
)  # fmt: skip
def test_shebang_with_a_version(name, language):
    assert detect_shebang(f"#!/usr/bin/{name}\n") == language


@pytest.mark.parametrize(
    "source",
    ["", "#", "#!", "#!\n", "#! \n/bin/sh", "#!/usr/bin/env", "#!/usr/bin/env -S", "#!/usr/bin/env A=1", "#!/bin/false",
     " #!/bin/sh", "\n#!/bin/sh", "print(1) #!/bin/sh", "#!/bin/sh/", "#!/opt/python/other", "#!3.11"],
)  # fmt: skip
def test_no_shebang(source):
    assert detect_shebang(source) is None


@given(st.text())
def test_any_source_gives_a_known_language_or_none(source):
    assert detect_shebang(source) in {None, *INTERPRETERS.values()}
    assert detect_shebang("#!" + source) in {None, *INTERPRETERS.values()}


@given(st.sampled_from(sorted(INTERPRETERS)), st.text())
def test_only_the_first_line_counts(interpreter, rest):
    assert detect_shebang(f"#!/usr/bin/{interpreter}\n{rest}") == INTERPRETERS[interpreter]


RUNNERS = """
#!/usr/bin/env -S uv run --script | python
#!/usr/bin/env uv run --script | python
#!/usr/bin/env -S uv run python -u | python
#!/usr/bin/env --split-string=python3 -u | python
#!/usr/bin/env -Spython3 -u | python
#!/usr/bin/env -vS A=1 python3 | python
#!/usr/bin/env -S "python3 -u" | python
#!/usr/bin/env -S poetry run python | python
#!/usr/bin/env -S npx tsx | typescript
#!/usr/bin/env -S npx --yes ts-node --esm | typescript
#!/usr/bin/busybox sh | bash
#!/bin/busybox awk -f | awk
#!/usr/bin/env -S deno run --allow-read | deno
#!/usr/bin/env -S kotlinc -script | kotlin
#!/usr/bin/env env python3 | python
"""


@pytest.mark.parametrize("row", RUNNERS.strip().splitlines())
def test_what_only_runs_another_program_is_looked_through(row):
    line, _, language = row.rpartition(" | ")
    assert str(detect_shebang(f"{line}\n")) == language


@pytest.mark.parametrize(
    ("name", "language"),
    [("a.pyw", "python"), ("a.cts", "typescript"), ("a.mts", "typescript"), ("a.kts", "kotlin")],
)
def test_further_extensions(name, language):
    assert detect_language(name) == language


@pytest.mark.parametrize("options", ["-u NAME", "-i -u A --unset B", "-C /tmp X=1", "-S -v"])
def test_options_of_env_are_skipped_with_their_arguments(options):
    assert detect_shebang(f"#!/usr/bin/env {options} python3\n") == "python"


def test_detection_knows_each_language_of_the_engine():
    names = set(load_languages())
    assert {*EXTENSIONS.values(), *INTERPRETERS.values()} <= names
    without = names - {*EXTENSIONS.values(), *INTERPRETERS.values()}
    assert without == DIALECTS, "a language that no file can be detected as"
