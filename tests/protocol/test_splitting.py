"""A JSON text that is taken apart holds the same as before, wherever its pieces end."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from unsandbox.protocol import codec
from unsandbox.protocol.contents import CHUNK, Held, Pieces, Spool
from unsandbox.protocol.held import HeldArtifact, held_artifact
from unsandbox.protocol.models import Artifact, Job
from unsandbox.protocol.splitting import Mark, Splitter, restored

LONG = base64.b64encode(bytes(range(256)) * 300).decode()
"""Long enough to be taken out."""

awkward = st.sampled_from(
    ["", "A", "AA==", '"', "\\", '"content":"', "\\n", "@", "@A", "@=", "@\n", "=@", "@ü"]
)
"""Where an at-sign stands, `LONG` is meant."""
texts = st.lists(awkward, max_size=3).map("".join)
names = st.sampled_from(["content", "content_base64", '"content', "x", "filename"])
values = st.recursive(
    texts, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(names, inner, max_size=3), max_leaves=6
)
bodies = st.dictionaries(st.sampled_from(["content", "env", "input_files", "artifacts"]), values, max_size=4)


def split(text: bytes, size: int) -> tuple[bytes, Splitter]:
    splitter = Splitter()
    for start in range(0, len(text), size):
        splitter.feed(text[start : start + size])
    return splitter.finish(), splitter


def unmarked(value: Any) -> Any:
    """Put back what `restored` left out."""
    if isinstance(value, Mark):
        return base64.b64encode(bytes(value.content)).decode()
    if isinstance(value, list):
        return [unmarked(item) for item in value]
    return {name: unmarked(item) for name, item in value.items()} if isinstance(value, dict) else value


def stripped(value: Any) -> Any:
    """Return a value without the line ends behind base64, which no reader minds."""
    if isinstance(value, str):
        return value.rstrip("\n") if set(value) & set(LONG) else value
    if isinstance(value, list):
        return [stripped(item) for item in value]
    return {name: stripped(item) for name, item in value.items()} if isinstance(value, dict) else value


@settings(deadline=None, max_examples=40)
@given(
    bodies, st.sampled_from([997, 5000, 70_001]), st.booleans(), st.sampled_from([(",", ":"), (", ", " :\n ")])
)
def test_nothing_is_lost_and_nothing_else_appears(body, size, ascii_only, separators):
    body = json.loads(json.dumps(body).replace("@", LONG))
    text = json.dumps(body, ensure_ascii=ascii_only, separators=separators).encode()
    kept, splitter = split(text, size)
    assert stripped(unmarked(restored(json.loads(kept), splitter.marks))) == stripped(body)
    assert stripped(restored(json.loads(kept), splitter.marks, whole=True)) == stripped(body)


def test_marks_are_left_in_lists_of_files_alone():
    body = {
        "env": {"content": LONG},
        "content": LONG,
        "input_files": [{"filename": "a", "content": LONG}, LONG],
    }
    kept, splitter = split(json.dumps(body).encode(), 1000)
    assert len(kept) < 2 * len(LONG)
    found = restored(json.loads(kept), splitter.marks)
    assert isinstance(found["input_files"][0].pop("content"), Mark)
    assert found == {"env": {"content": LONG}, "content": LONG, "input_files": [{"filename": "a"}, LONG]}


def test_a_mark_that_was_guessed_means_nothing():
    kept, splitter = split(
        json.dumps({"artifacts": [{"content": "content-00-0"}, {"content": LONG}]}).encode(), 99
    )
    assert restored(json.loads(kept), splitter.marks)["artifacts"][0] == {"content": "content-00-0"}


@pytest.mark.parametrize("size", [0, 1, 2, CHUNK - 1, CHUNK, CHUNK + 1, 2 * CHUNK + 5])
def test_what_is_sent_in_pieces_is_what_would_be_sent_whole(size):
    data = bytes(number % 251 for number in range(size))
    spool = Spool()
    spool.write(b"before")
    spool.write(data)
    content = spool.since(6)
    spool.write(b"behind")
    pieces = codec.encode_pieces(
        Job(stdout="x", artifacts=[held_artifact("a", content), held_artifact("b", Held(data))])
    )
    assert isinstance(pieces, Pieces)
    whole = b"".join(pieces.chunks())
    plain = Artifact(filename="a", content_base64=base64.b64encode(data).decode(), size=size)
    assert whole == codec.encode(Job(stdout="x", artifacts=[plain, plain.replace(filename="b")]))
    assert len(pieces) == len(whole)


def test_an_answer_finds_its_large_files_again():
    job = Job(
        artifacts=[Artifact(filename="a", content_base64=LONG), Artifact(filename="b", content_base64="aGk=")]
    )
    kept, splitter = split(codec.encode(job), 10_000)
    found = codec.response_from_wire(restored(codec.loads(kept), splitter.marks), Job).artifacts
    assert found is not None
    assert [type(artifact) for artifact in found] == [HeldArtifact, Artifact]
    assert [artifact.content_base64 for artifact in found] == [LONG, "aGk="]
    assert len(repr(found[0])) < 100
