"""No name that crosses the wire leads out of the folder that it is used in, on either side."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from unsandbox.errors import InvalidResponseError
from unsandbox.protocol.models import Artifact
from unsandbox.protocol.names import MAX_DEPTH, clash, relative_name

parts = st.sampled_from(
    ["", ".", "..", "a", "b.txt", "C:", "~", "\0", "...", "x" * 300, "ü", "\udcff", "\ud800", "-"]
)
separators = st.sampled_from(["/", "\\", "//", "/./"])
names = st.lists(st.tuples(parts, separators), max_size=6).map(lambda pairs: "".join(a + b for a, b in pairs))
names |= st.builds("".join, st.tuples(names, parts)) | st.text(max_size=20)


def usable(name: str) -> str | None:
    try:
        return relative_name(name)
    except ValueError:
        return None


@given(names)
@example("./C:/a/")
@example("./\\")
@example(".\\")
@example("./\\b")
def test_what_a_name_means_lies_below(name):
    found = usable(name)
    if found is not None:
        assert not {"", ".", ".."}.intersection(found.split("/"))
        assert "\0" not in found
        assert ".." not in found.replace("\\", "/").split("/")
        assert os.path.normpath(f"/top/{found}") == f"/top/{found}"
        assert relative_name(found) == found
        last = [part for part in name.replace("\\", "/").split("/") if part not in {"", "."}][-1]
        assert last in found.replace("\\", "/").split("/")


@given(names)
def test_files_are_saved_below_and_nowhere_else(name):
    with tempfile.TemporaryDirectory() as top:
        folder = Path(top) / "out"
        found = usable(name)
        try:
            saved = Artifact(filename=name, content_base64="ZGF0YQ==").save(folder)
        except (InvalidResponseError, UnicodeEncodeError):
            assert found is None or "\ud800" in found
        else:
            assert saved.relative_to(folder).as_posix() == found
            everything = [path for path in Path(top).rglob("*") if path.is_file()]
            assert everything == [saved]


@pytest.mark.parametrize("name", ["a/b/c", "./a/b", "a//b/", " a / b "])
def test_plain_folders_are_kept(name):
    assert "/" in relative_name(name)


@pytest.mark.parametrize(
    "name",
    [
        "/x/a",
        "\\x\\a",
        "x/../a",
        "../a",
        "C:\\x\\a",
        "c:a/x/a",
        "//host/x/a",
        "./C:/a",
        ".\\\\C:\\a/",
        "././c:x/a",
    ],
)
def test_what_leads_elsewhere_means_its_last_part(name):
    assert relative_name(name) == "a"


@pytest.mark.parametrize(
    "name", ["", ".", "..", "/", "a/..", "a\0", "x" * 256, "a/" * MAX_DEPTH + "b", "ab/" * 20 + "ü" * 500]
)
def test_what_no_file_can_have_is_refused(name):
    with pytest.raises(ValueError, match="filename"):
        relative_name(name)


@given(st.sets(st.sampled_from(["a", "a/b", "a/b/c", "b", "b/c", "c/d/e", "c"])))
def test_a_clash_is_a_file_that_is_also_a_folder(names):
    found = clash(names)
    expected = {name for name in names if any(other.startswith(f"{name}/") for other in names)}
    assert found == min(expected, default=None)
