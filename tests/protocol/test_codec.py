"""JSON in and out: what is written can be read by every client, what anybody writes can be read by us."""

import base64
import contextlib
import json
import re

import msgspec
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tests.protocol.strategies import (
    MODELS,
    any_model,
    json_objects,
    json_values,
    of_model,
    surrogate_texts,
    texts,
)

from unsandbox.errors import InvalidRequestError, InvalidResponseError
from unsandbox.protocol import codec
from unsandbox.protocol.models import Artifact, ExecuteRequest, InputFile, Job, JobList, WireModel


def members_outside_texts(body: bytes) -> bytes:
    """Return the JSON with every text emptied: what is left is structure."""
    return re.sub(rb'"(?:[^"\\]|\\.)*"', b'""', body)


@given(any_model)
def test_every_model_comes_back(model):
    assert codec.from_wire(codec.loads(codec.encode(model)), type(model)) == model


@given(any_model, json_objects)
def test_unknown_members_are_ignored(model, extra):
    kind = type(model)
    known = {*kind.__struct_fields__, *kind.READ_ALIASES}
    wire = {f"x-{name}": value for name, value in extra.items() if f"x-{name}" not in known} | codec.to_wire(
        model
    )
    assert codec.from_wire(wire, kind) == model


@pytest.mark.parametrize(
    ("model", "alias"),
    [(model, alias) for model in MODELS for alias in model.READ_ALIASES],
    ids=lambda part: str(part),
)
@settings(max_examples=20)
@given(data=st.data())
def test_every_alias_is_read_and_our_name_wins(model, alias, data):
    value = data.draw(of_model(model))
    name = model.READ_ALIASES[alias]
    if getattr(value, name) is None:
        return
    # The plain members, without the twins that are written beside them.
    plain = {key: item for key, item in codec.to_wire(value).items() if key in model.__struct_fields__}
    renamed = {alias if key == name else key: item for key, item in plain.items()}
    assert codec.from_wire(renamed, model) == value
    assert codec.from_wire({alias: "not this one", **plain}, model) == value
    assert codec.from_wire({**renamed, name: None}, model) == value


@given(any_model)
def test_written_json_is_compact_utf8(model):
    body = codec.encode(model)
    assert not re.search(rb"\s", members_outside_texts(body))
    body.decode("utf-8")
    # Only control characters may stand as \uXXXX: the C client leaves such escapes in the text.
    for code in re.findall(rb"(?<!\\)(?:\\\\)*\\u([0-9a-fA-F]{4})", body):
        assert int(code, 16) < 0x20


@given(json_objects)
def test_the_standard_library_reads_the_same(value):
    assert json.loads(codec.encode(value)) == value


@given(any_model)
def test_nothing_is_null_and_no_error_is_empty(model):
    wire = codec.to_wire(model)
    assert None not in wire.values()
    assert wire.get("error") != ""


@given(any_model)
def test_twins_are_equal(model):
    wire = codec.to_wire(model)
    for name, twins in type(model).WRITE_ALIASES.items():
        for twin in twins:
            assert (twin in wire) == (name in wire)
            value = wire.get(name)
            whole = twin in getattr(model, "WHOLE_NUMBERS", ()) and value is not None
            assert wire.get(twin) == (round(value) if whole else value)


def test_the_answer_that_old_clients_search_textually():
    job = Job(
        job_id="j1", status="completed", stdout="é\n", exit_code=0, success=True, total_time_ms=12.0, error=""
    )
    assert (
        codec.encode(job)
        == (
            '{"job_id":"j1","status":"completed","stdout":"é\\n","exit_code":0,"success":true,"total_time_ms":12.0,'
            '"id":"j1","execution_time_ms":12,"execution_time":12.0,"output":"é\\n"}'
        ).encode()
    )


@given(surrogate_texts)
def test_a_lone_surrogate_is_refused_before_sending(text):
    for value in (
        ExecuteRequest(language="python", code=text),
        ExecuteRequest(language="python", code="", env={text: "x"}),
        ExecuteRequest(language="python", code="", input_files=[InputFile(filename=text, content="")]),
        {"x": [text]},
    ):
        with pytest.raises(InvalidRequestError):
            codec.encode(value)


@pytest.mark.parametrize("value", [{"x": object()}, {"x": {1: object()}}, {object(): 1}])
def test_what_is_no_json_is_refused_before_sending(value):
    with pytest.raises(InvalidRequestError):
        codec.encode(value)


@given(st.binary())
@example(b"\xff")
@example(b'{"code":"caf\xe9"}')
@example(b'"\\ud800"')
@example(b"[" * 100_000)
@example(b'{"a":' * 100_000)
@example(b"\xff" + b"[" * 100_000)
@example(b'{"a":"\xff","b":' + b"[" * 100_000)
@example(b"1" * 5000)
@example(b"\xef\xbb\xbf{}")
@example(b"nan")
def test_any_bytes_are_json_or_a_value_error(body):
    for read in (codec.loads, codec.loads_object):
        try:
            read(body)
        except ValueError as error:
            assert len(str(error)) < 200, "the message names the place, not the content"


@given(json_values)
def test_json_of_the_standard_library_is_read(value):
    for escaped in (True, False):
        assert codec.loads(json.dumps(value, ensure_ascii=escaped, indent=2).encode()) == value


@given(st.binary(max_size=40).filter(lambda raw: not set(raw) & {*b'"\\', *range(32)}))
def test_bytes_that_are_not_utf8_are_kept(raw):
    """The C client sends a Latin-1 source as it is (wire document, 2.1)."""
    code = codec.loads_object(b'{"language":"c","code":"' + raw + b'"}')["code"]
    assert code.encode("utf-8", "surrogateescape") == raw
    request = codec.from_wire({"language": "c", "code": code}, ExecuteRequest)
    assert request.code == code


@pytest.mark.parametrize("body", [b"", b"{}", b"[]", b"null", b" {} \n", b"\r\n"])
def test_no_arguments_in_four_ways(body):
    assert codec.loads_object(body) == {}


@pytest.mark.parametrize(
    ("body", "kind"), [(b"[1]", "a list"), (b'"x"', "a text"), (b"1", "a number"), (b"true", "a boolean")]
)
def test_another_kind_of_body_is_named(body, kind):
    with pytest.raises(ValueError, match=kind):
        codec.loads_object(body)


@given(st.sampled_from(MODELS), json_objects)
def test_any_object_is_a_model_or_a_value_error(model, value):
    with contextlib.suppress(ValueError):
        assert isinstance(codec.from_wire(value, model), model)


@given(st.sampled_from(MODELS), st.data())
def test_any_value_in_a_known_field_is_a_model_or_an_answer_error(model, data):
    names = st.sampled_from([*model.__struct_fields__, *model.READ_ALIASES])
    value = data.draw(st.dictionaries(names, json_values | texts, max_size=6) | json_values)
    try:
        assert isinstance(codec.response_from_wire(value, model), model)
    except InvalidResponseError as error:
        assert isinstance(error, ValueError)


def test_wrong_types_name_the_field_and_not_the_value():
    with pytest.raises(ValueError, match=r"language") as caught:
        codec.from_wire({"language": ["s3cret"], "code": "x"}, ExecuteRequest)
    assert "s3cret" not in str(caught.value)


@pytest.mark.parametrize(
    ("field", "value"), [("ttl", 0), ("ttl", 901), ("vcpu", 0), ("vcpu", 9), ("network_mode", "all")]
)
def test_values_out_of_bounds_are_refused(field, value):
    with pytest.raises(ValueError, match=field):
        codec.from_wire({"language": "c", "code": "", field: value}, ExecuteRequest)


def test_numbers_may_be_written_as_texts():
    request = codec.from_wire({"language": "c", "code": "", "ttl": "30", "vcpu": "2"}, ExecuteRequest)
    assert (request.ttl, request.vcpu) == (30, 2)


def test_aliases_inside_lists_are_read():
    jobs = codec.from_wire({"jobs": [{"id": "a", "submitted_at": "1"}, {"job_id": "b"}]}, JobList).jobs
    assert [(job.job_id, job.created_at) for job in jobs] == [("a", "1"), ("b", None)]
    request = codec.from_wire(
        {"language": "c", "code": "", "input_files": [{"filename": "a", "content_base64": "aGk="}]},
        ExecuteRequest,
    )
    assert request.input_files[0].data == b"hi"


@given(texts, st.binary())
def test_a_file_comes_back_byte_for_byte(name, data):
    file = codec.from_wire(codec.loads(codec.encode(InputFile.of(name, data))), InputFile)
    assert (file.filename, file.data) == (name, data)


@given(st.binary(), st.sampled_from(["\n", "\r\n", " "]))
def test_white_space_in_base64_is_ignored(data, space):
    """The bash client pipes base64 with line breaks (wire document, 5.4)."""
    encoded = base64.b64encode(data).decode()
    lines = space.join(encoded[at : at + 8] for at in range(0, len(encoded), 8)) + space
    assert InputFile(filename="a", content=lines).data == data


@given(st.text())
def test_any_content_of_a_file_is_bytes(content):
    file = InputFile(filename="a", content=content.encode("utf-8", "replace").decode())
    assert isinstance(file.data, bytes)


@given(st.binary())
def test_exact_output(data):
    exact = Job(stdout=data.decode("utf-8", "replace"), stdout_base64=base64.b64encode(data).decode())
    assert exact.stdout_bytes == data
    assert Job(stdout=data.decode("utf-8", "surrogateescape")).stdout_bytes == data
    assert Artifact(filename="a", content_base64=base64.b64encode(data).decode()).data == data


def test_an_answer_without_output_has_empty_bytes():
    assert (Job().stdout_bytes, Job().stderr_bytes) == (b"", b"")


@pytest.mark.parametrize(
    ("status", "done"),
    [(None, True), ("pending", False), ("running", False), ("completed", True), ("failed", True), ("timeout", True),
     ("cancelled", True), ("unheard-of", False)],
)  # fmt: skip
def test_done(status, done):
    assert Job(status=status).done is done


@pytest.mark.parametrize("model", MODELS)
def test_models_are_frozen_and_every_alias_leads_to_a_field(model):
    assert issubclass(model, WireModel)
    assert set(model.READ_ALIASES.values()) | set(model.WRITE_ALIASES) <= set(model.__struct_fields__)
    assert not set(model.READ_ALIASES) & set(model.__struct_fields__)
    if model.__struct_fields__ and not any(field.required for field in msgspec.structs.fields(model)):
        value = model()
        with pytest.raises(AttributeError):
            setattr(value, model.__struct_fields__[0], None)


def test_what_is_not_base64_is_an_invalid_response():
    with pytest.raises(InvalidResponseError):
        _ = Artifact(filename="a", content_base64="?").data
    with pytest.raises(InvalidResponseError):
        _ = Job(stdout="", stdout_base64="?").stdout_bytes
