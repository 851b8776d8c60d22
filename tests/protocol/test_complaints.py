"""A request that is refused says in words which values a member may have."""

from __future__ import annotations

import pytest
from msgspec import inspect

from unsandbox.protocol import complaints, models, services, sessions
from unsandbox.protocol.bounds import fields_of
from unsandbox.protocol.codec import from_wire
from unsandbox.protocol.endpoints.jobs import ENDPOINTS

JOB = {"language": "c", "code": ""}
CASES = [
    (
        models.ExecuteRequest,
        {"isolation": "docker"},
        "isolation must be one of auto, bubblewrap, gvisor, hardened, not 'docker'",
    ),
    (
        models.ExecuteRequest,
        {"network": "open"},
        "network_mode must be one of semitrusted, zerotrust, not 'open'",
    ),
    (models.ExecuteRequest, {"vcpu": 9}, "vcpu must be a whole number from 1 to 8, not 9"),
    (models.ExecuteRequest, {"vcpu": "x"}, "vcpu must be a whole number from 1 to 8, not 'x'"),
    (models.ExecuteRequest, {"ttl": -1}, "ttl must be a number above 0, at most 900, not -1"),
    (models.ExecuteRequest, {"memory_mb": 1}, "memory_mb must be a whole number of at least 16, not 1"),
    (models.ExecuteRequest, {"language": 3}, "language must be text, not 3"),
    (models.ExecuteRequest, {"args": "x"}, "args must be a list of texts, not 'x'"),
    (models.ExecuteRequest, {"args": ["a", 1]}, "args[1] must be text, not 1"),
    (models.ExecuteRequest, {"env": {"a": 1}}, "a value in env must be text"),
    (models.ExecuteRequest, {"input_files": [{"filename": "a"}]}, "input_files[0].content is missing"),
    (models.ExecuteRequest, {"input_files": ["a"]}, "input_files[0] must be an object, not 'a'"),
    (
        models.ExecuteRequest,
        {"return_artifacts": "maybe"},
        "return_artifacts must be true or false, not 'maybe'",
    ),
    (
        services.ServiceRequest,
        {"name": "A b"},
        "name must be 1 to 63 lower-case letters, digits and hyphens, with no hyphen at either end, not 'A b'",
    ),
    (
        services.ServiceRequest,
        {"name": "a", "ports": [99999]},
        "ports[0] must be a whole number from 1 to 65535, not 99999",
    ),
    (sessions.SessionRequest, {"vcpu": 0}, "vcpu must be a whole number from 1 to 8, not 0"),
]


@pytest.mark.parametrize(("model", "members", "complaint"), CASES)
def test_a_complaint_is_in_words(model, members, complaint):
    given = JOB | members if model is models.ExecuteRequest else members
    with pytest.raises(ValueError) as caught:
        from_wire(given, model)
    assert str(caught.value) == complaint


def test_a_missing_member_is_named():
    with pytest.raises(ValueError, match=r"^language is missing$"):
        from_wire({"code": ""}, models.ExecuteRequest)


def test_long_values_are_not_repeated():
    with pytest.raises(ValueError, match=r"not 'xxx") as caught:
        from_wire(JOB | {"isolation": "x" * 30}, models.ExecuteRequest)
    with pytest.raises(ValueError, match="isolation must be") as caught:
        from_wire(JOB | {"isolation": "x" * 300}, models.ExecuteRequest)
    assert "xxx" not in str(caught.value)


def patterns(kind):
    if isinstance(kind, inspect.UnionType):
        for one in kind.types:
            yield from patterns(one)
    elif isinstance(kind, inspect.StrType) and kind.pattern:
        yield kind.pattern


def test_every_pattern_has_words():
    requests = {endpoint.request for endpoint in ENDPOINTS if endpoint.request}
    used = {pattern for model in requests for field in fields_of(model) for pattern in patterns(field.type)}
    assert used == set(complaints.PATTERNS)
