"""What is installed from the wheel: every file of the source tree, and a client that works without the checkout."""

import subprocess
import sys
import zipfile

import pytest
from tests.support import REPO

SRC = REPO / "src"


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", str(folder)]
    subprocess.run(command, cwd=REPO, check=True, capture_output=True, timeout=100)
    (path,) = folder.glob("*.whl")
    return path


def test_every_file_of_the_source_tree_is_in_it(wheel):
    packed = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    wanted = {
        path.relative_to(SRC).as_posix()
        for path in SRC.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert packed == wanted
    assert {
        "un.py",
        "un_async.py",
        "unsandbox/py.typed",
        "unsandbox/sandbox/languages/languages.toml",
    } <= packed


def test_it_declares_what_it_is(wheel):
    with zipfile.ZipFile(wheel) as archive:
        (metadata,) = (name for name in archive.namelist() if name.endswith("/METADATA"))
        text = archive.read(metadata).decode()
    assert "Requires-Python: >=3.11" in text
    assert "License-Expression: Unlicense" in text
    assert "Provides-Extra: local" in text


def test_the_modules_import_from_the_wheel_alone(wheel, tmp_path):
    """No checkout on the path: what is missing in the wheel is missing here."""
    code = (
        "import sys; sys.path = [p for p in sys.path if not p.endswith('src')]; sys.path.insert(0, sys.argv[1])\n"
        "import un, un_async, unsandbox\n"
        "assert un.__file__.startswith(sys.argv[1]), un.__file__\n"
        "print(un.detect_language('a.py'), un_async.detect_language('a.c'), unsandbox.__version__)"
    )
    unpacked = tmp_path / "unpacked"
    zipfile.ZipFile(wheel).extractall(unpacked)
    result = subprocess.run(
        [sys.executable, "-c", code, str(unpacked)],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout.startswith("python c 0.1.0")
