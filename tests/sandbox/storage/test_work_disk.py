"""Images of work folders where the file system has no files without a name, as overlays before Linux 6.3."""

from __future__ import annotations

import errno
import os

import pytest

from unsandbox.sandbox.spec import MIB
from unsandbox.sandbox.storage.work_disk import DiskImages

pytestmark = pytest.mark.root


@pytest.fixture(params=[True, False], ids=["files without a name", "an old overlay"])
def images(tmp_path, monkeypatch, request):
    original = os.open

    def without(path, flags, *rest, **options):
        if flags & os.O_TMPFILE == os.O_TMPFILE:
            raise OSError(errno.EOPNOTSUPP, "Operation not supported", path)
        return original(path, flags, *rest, **options)

    if not request.param:
        monkeypatch.setattr(os, "open", without)
    found = DiskImages(tmp_path)
    yield found
    found.close()


def test_an_image_is_named_when_it_is_complete(images, tmp_path):
    path = tmp_path / "disk"
    fd = images.open(path, 8 * MIB)
    assert [entry.name for entry in tmp_path.iterdir()] == ["disk"]
    assert os.fstat(fd).st_ino == path.stat().st_ino
    assert os.fstat(fd).st_nlink == 1
    os.close(fd)
    again = images.open(path, 8 * MIB)
    assert os.fstat(again).st_ino == path.stat().st_ino
    os.close(again)


def test_an_image_without_a_path_has_no_name(images, tmp_path):
    fd = images.open(None, 8 * MIB)
    assert list(tmp_path.iterdir()) == []
    assert os.fstat(fd).st_nlink == 0
    os.close(fd)


def test_an_image_that_cannot_be_made_leaves_nothing(images, tmp_path, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        images.open(tmp_path / "disk", 8 * MIB)
    assert list(tmp_path.iterdir()) == []
