"""Language detection by file extension or `#!` line."""

from __future__ import annotations

import posixpath
from collections.abc import Iterable

from unsandbox.protocol.shebang import shebang_program, without_version

# One row per language of sandbox/languages.toml: its name, its file extensions, its names in `#!` lines. Where
# two share one, it means the language that servers are most likely to have (`zsh` means `bash`).
_ROWS = """
ada          | adb ads                 | gnat
algol68      | a68                     | a68g algol68g
assembly     | asm nasm s              |
awk          | awk                     | awk gawk mawk
bash         | sh bash                 | sh bash dash ash zsh
basic        | bas                     | yabasic
bc           | bc                      | bc
brainfuck    | bf                      | beef
bun          |                         | bun
c            | c                       |
chez         |                         |
chicken      |                         |
clips        | clp                     | clips
clisp        |                         |
clojure      | clj cljc                | clojure
cobol        | cob cbl                 |
coffeescript | coffee                  | coffee
commonlisp   | lisp lsp cl             | sbcl clisp
cpp          | cpp cc cxx              |
crystal      | cr                      | crystal
csharp       | cs                      |
d            | d                       | rdmd
dart         | dart                    | dart
dc           | dc                      | dc
deno         |                         | deno
dotnet       | csx                     |
elixir       | ex exs                  | elixir
erlang       | erl                     | escript
fish         | fish                    | fish
forth        | 4th forth fth           | gforth
fortran      | f90 f95 f03 f08         |
fsharp       | fs fsx                  |
gambit       |                         |
gap          | g                       | gap
go           | go                      | go gorun
groovy       | groovy                  | groovy
haskell      | hs                      | runghc runhaskell
haxe         | hx                      |
icon         | icn                     |
java         | java                    | java jbang
javascript   | js mjs cjs              | node nodejs
jq           | jq                      | jq
julia        | jl                      | julia
kotlin       | kt kts                  | kotlin kotlinc
ksh          | ksh                     | ksh ksh93
livescript   | ls                      | lsc
lua          | lua                     | lua luajit
luajit       |                         |
m4           | m4                      | m4
newlisp      |                         | newlisp
nickle       | 5c                      | nickle
nim          | nim                     |
objc         | m                       |
ocaml        | ml                      | ocaml
octave       |                         | octave octave-cli
pari         | gp                      | gp
pascal       | pas pp                  | instantfpc
perl         | pl pm                   | perl
php          | php                     | php
picolisp     |                         | picolisp pil
pike         | pike                    | pike
postscript   | ps                      | gs
powershell   | ps1                     | pwsh
prolog       | pro p                   | swipl
pypy         |                         |
python       | py pyw                  | python pypy
r            | r                       | rscript
racket       | rkt                     | racket
raku         | raku pl6 p6 rakumod     | raku perl6
rexx         | rexx rex                | regina rexx
ruby         | rb                      | ruby
rust         | rs                      | rust-script
scala        | scala sc                | scala
scheme       | scm ss                  | guile scheme chezscheme csi gsi
slang        | sl                      | slsh
sml          | sml                     | poly
sqlite       | sql                     | sqlite
swift        | swift                   | swift
tcc          |                         | tcc
tcl          | tcl                     | tclsh wish
tcsh         | csh tcsh                | csh tcsh
typescript   | ts mts cts              | ts-node tsx esno
v            | v vsh                   | v
vala         | vala                    | vala
wat          | wat                     |
zig          | zig                     |
zigcc        |                         |
zsh          | zsh                     |
"""


_HISTORICAL_ORDER = """
python javascript typescript ruby php perl bash r lua go rust c cpp java kotlin objc csharp fsharp
dotnet haskell ocaml clojure scheme erlang elixir julia d nim zig v crystal dart groovy fortran
commonlisp cobol tcl raku prolog forth awk powershell deno swift scala racket
"""


def in_historical_order(names: Iterable[str]) -> list[str]:
    """Return names of languages in the order in which servers have always listed them; new ones follow, sorted.

    Example:
        >>> in_historical_order(["zsh", "bash", "ada", "python"])
        ['python', 'bash', 'ada', 'zsh']
    """
    given = set(names)
    known = [name for name in _HISTORICAL_ORDER.split() if name in given]
    return [*known, *sorted(given.difference(known))]


def _column(number: int) -> dict[str, str]:
    rows = (line.split("|") for line in _ROWS.strip().splitlines())
    return {word: row[0].strip() for row in rows for word in row[number].split()}


NAMES = tuple(row.partition("|")[0].strip() for row in _ROWS.strip().splitlines())
"""The names of all languages, sorted."""

EXTENSIONS: dict[str, str] = _column(1)
"""File extension (lower case, no dot) to language: the union of what all clients know, and more."""

INTERPRETERS: dict[str, str] = _column(2)
"""Last path component of a `#!` line (lower case, version stripped) to language."""


def detect_language(filename: str) -> str | None:
    """Return the language of a file by its extension, or None when the extension is unknown.

    Case does not matter, nor do dots in folder names. The file is not read and need not exist.

    Example:
        >>> detect_language("/my.dir/Main.CPP"), detect_language("script.tar.rb"), detect_language("Makefile")
        ('cpp', 'ruby', None)
    """
    name = posixpath.basename(filename.replace("\\", "/"))
    stem, dot, extension = name.rpartition(".")
    return EXTENSIONS.get(extension.lower()) if dot and stem else None


def detect_shebang(source: str) -> str | None:
    r"""Return the language that the `#!` line of a program names, or None; see `shebang.shebang_program`.

    Example:
        >>> detect_shebang("#!/usr/bin/env -S FOO=1 python3.12 -u\n"), detect_shebang("print(1)")
        ('python', None)
    """
    name = shebang_program(source)
    return None if name is None else INTERPRETERS.get(name) or INTERPRETERS.get(without_version(name))
