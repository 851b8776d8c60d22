"""`scripts/release`: what a release changes, what it refuses, and the metadata of its wheel."""

from __future__ import annotations

import importlib.util
import shutil
import subprocess
import sys
import zipfile
from importlib.machinery import SourceFileLoader
from pathlib import Path

import pytest

REPO = Path(__file__).resolve().parents[2]
ADDRESS = "https://forge.example/owner/unsandbox"


def git(folder, *words):
    identity = ("-c", "user.name=Tester", "-c", "user.email=tester@localhost")
    return subprocess.run(
        ["git", *identity, *words], cwd=folder, check=True, capture_output=True, text=True
    ).stdout


@pytest.fixture
def tree(tmp_path, monkeypatch):
    """A repository with the files of this one as they are now, and a public address."""
    folder = tmp_path / "tree"
    listed = git(REPO, "ls-files", "--cached", "--others", "--exclude-standard", "-z").split("\0")
    for name in filter(None, listed):
        if (REPO / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(REPO / name, folder / name)
    project = folder / "pyproject.toml"
    project.write_text(project.read_text().replace('repository = ""', f'repository = "{ADDRESS}"'))
    (folder / "changes" / "+test.fixed.md").write_text("A fault of the test was fixed.\n")
    git(folder, "init", "--quiet")
    git(folder, "add", "--all")
    git(folder, "commit", "--quiet", "-m", "state")
    for name in ("AUTHOR", "COMMITTER"):
        monkeypatch.setenv(f"GIT_{name}_NAME", "Tester")
        monkeypatch.setenv(f"GIT_{name}_EMAIL", "tester@localhost")
    return folder


def load(name, path):
    loader = SourceFileLoader(name, str(path))
    module = importlib.util.module_from_spec(importlib.util.spec_from_loader(name, loader))
    loader.exec_module(module)
    return module


def metadata_of(folder):
    (wheel,) = (folder / "dist").glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        (name,) = (name for name in archive.namelist() if name.endswith("/METADATA"))
        return archive.read(name).decode()


@pytest.mark.slow
def test_a_dry_run_shows_the_release_and_changes_nothing(tree):
    done = subprocess.run(
        [sys.executable, "scripts/release", "9.0.0", "--dry-run"],
        cwd=tree,
        capture_output=True,
        text=True,
        timeout=110,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "## 9.0.0" in done.stdout
    assert "A fault of the test was fixed." in done.stdout
    assert "dist/unsandbox-9.0.0-py3-none-any.whl" in done.stdout
    assert "dist/unsandbox-9.0.0.tar.gz" in done.stdout
    assert (git(tree, "status", "--porcelain"), git(tree, "tag")) == ("", "")


@pytest.mark.slow
def test_a_release_is_a_commit_with_a_tag_and_a_checked_wheel(tree, tmp_path):
    script = load("release_script", tree / "scripts" / "release")
    script.release(tree, "9.0.0", tmp_path)
    assert git(tree, "tag") == "v9.0.0\n"
    assert git(tree, "log", "-1", "--format=%s") == "release: 9.0.0\n"
    assert git(tree, "status", "--porcelain") == ""
    assert list((tree / "changes").glob("*.md")) == []
    assert "## 9.0.0" in (tree / "CHANGELOG.md").read_text()
    metadata = metadata_of(tree)
    assert "Version: 9.0.0" in metadata
    assert f"Project-URL: Source, {ADDRESS}" in metadata
    assert f"]({ADDRESS}/blob/v9.0.0/docs/client.md)" in metadata
    assert f"]({ADDRESS}/raw/v9.0.0/docs/images/overview.svg)" in metadata
    with pytest.raises(script.ReleaseError, match=r"has the version 9\.0\.0"):
        script.check_wheel(next((tree / "dist").glob("*.whl")), "9.0.1", ADDRESS)


def test_what_cannot_be_released_is_refused_with_all_reasons(tree):
    script = load("release_script", tree / "scripts" / "release")
    assert script.problems(tree, "9.0.0") == []
    git(tree, "tag", "v0.0.1")
    for fragment in (tree / "changes").glob("*.md"):
        fragment.unlink()
    found = "\n".join(script.problems(tree, "0.0.1"))
    for reason in ("not newer", "uncommitted", "exists already", "no changelog fragments"):
        assert reason in found
    assert "is not a version" in script.problems(tree, "next")[0]


def test_links_stay_relative_without_a_public_address(tmp_path):
    hook = load("metadata_hook", REPO / "scripts" / "metadata.py")
    metadata: dict[str, object] = {}
    hook.ProjectMetadata(str(REPO), {"repository": ""}).update(metadata)
    assert metadata["urls"] == {"Homepage": hook.HOMEPAGE}
    assert "](docs/client.md)" in metadata["readme"]["text"]
