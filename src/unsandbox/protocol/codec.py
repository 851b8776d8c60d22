"""JSON in and out by the rules that every client can live with (wire document, sections 3 and 15).

Written: compact, raw UTF-8, None left out, both names of each pair. Read: aliases, unknown fields, numbers as
strings. Bodies that are not valid UTF-8 (the C client sends Latin-1 sources as they are) keep their bytes.
"""

from __future__ import annotations

import itertools
import json
import os
import re
from collections.abc import Iterator, Mapping
from typing import Any, TypeVar

import msgspec

from unsandbox.errors import InvalidRequestError, InvalidResponseError
from unsandbox.protocol.bounds import check_bounds
from unsandbox.protocol.complaints import explain
from unsandbox.protocol.contents import Content, Pieces
from unsandbox.protocol.held import fill_in, nested
from unsandbox.protocol.models import WireModel

T = TypeVar("T", bound=WireModel)

_encoder = msgspec.json.Encoder()
_decoder = msgspec.json.Decoder()
_HALF_PAIR = re.compile("[\ud800-\udfff]")
_NO_BODY = (b"", b"{}", b"[]", b"null")


def to_wire(model: WireModel, *, whole: bool = True) -> dict[str, Any]:
    """Return the JSON object of a model: None left out, twins added, nested models likewise.

    Args:
        model: The model.
        whole: Whether contents in files are read; otherwise marks replace their base64.

    Example:
        >>> from unsandbox.protocol.models import Job
        >>> to_wire(Job(job_id="j1", status="running"))
        {'job_id': 'j1', 'status': 'running', 'id': 'j1'}
    """
    plain: dict[str, Any] = {}
    for name in model.__struct_fields__:
        value = getattr(model, "held" if name == model.LAZY_FIELD and not whole else name)
        if value is None or (name == "held" and model.LAZY_FIELD) or (name == "error" and not value):
            # The C client takes any `error`, even an empty one, for a failure.
            continue
        if isinstance(value, list):
            value = [to_wire(item, whole=whole) if isinstance(item, WireModel) else item for item in value]
        plain[name] = value
    for name, twins in model.WRITE_ALIASES.items():
        if name in plain:
            plain.update(dict.fromkeys(twins, plain[name]))
    for name in model.WHOLE_NUMBERS & plain.keys():
        plain[name] = round(plain[name])
    return plain


def encode(value: WireModel | Mapping[str, Any]) -> bytes:
    r"""Return the bytes of a JSON body.

    Raises:
        InvalidRequestError: A text holds a lone surrogate, or a value is of no JSON type.

    Example:
        >>> encode({"code": "é"})
        b'{"code":"\xc3\xa9"}'
    """
    return _written(_encoder, to_wire(value) if isinstance(value, WireModel) else value)


def _written(encoder: msgspec.json.Encoder, plain: Mapping[str, Any]) -> bytes:
    try:
        return encoder.encode(plain)
    except UnicodeEncodeError as error:
        where = "".join(_with_half_pair(plain)) or "a text"
        raise InvalidRequestError(f"{where} contains a lone surrogate, which UTF-8 cannot represent") from error
    except (TypeError, OverflowError, msgspec.MsgspecError) as error:
        raise InvalidRequestError(f"the request cannot be written as JSON: {error}") from error


def _with_half_pair(value: Any, path: str = "") -> Iterator[str]:
    """Yield the path of the first text that UTF-8 cannot hold."""
    if isinstance(value, str):
        if _HALF_PAIR.search(value):
            yield path
    elif isinstance(value, Mapping):
        pairs = ((f"{path}.{name!s}".lstrip("."), item) for name, item in value.items())
        yield from itertools.islice((hit for at, item in pairs for hit in _with_half_pair(item, at)), 1)
    elif isinstance(value, list):
        numbered = ((f"{path}[{number}]", item) for number, item in enumerate(value))
        yield from itertools.islice((hit for at, item in numbered for hit in _with_half_pair(item, at)), 1)


def encode_text(text: str) -> bytes:
    r"""Return the JSON string of a text.

    Raises:
        InvalidRequestError: As `encode`.

    Example:
        >>> encode_text("a\tb")
        b'"a\\tb"'
    """
    return _written(_encoder, {"": text})[len(b'{"":') : -1]


def encode_request(value: WireModel | Mapping[str, Any]) -> bytes | Pieces:
    r"""Return the JSON body of a request, as `encode_pieces`; bytes that are no UTF-8 are sent as they are.

    Python decodes such bytes into surrogate escapes (PEP 383): a program in Latin-1, say, or a file's name.
    `loads` gives the server the same text.

    Raises:
        InvalidRequestError: As `encode`.

    Example:
        >>> encode_request({"code": b"caf\xe9".decode("utf-8", "surrogateescape")})
        b'{"code":"caf\xe9"}'
    """
    return _encode_pieces(value, escapes=True)


def encode_pieces(value: WireModel | Mapping[str, Any]) -> bytes | Pieces:
    """Return a JSON body, as `encode`; contents in the places of texts are not read before it is sent.

    Raises:
        InvalidRequestError: As `encode`.

    Example:
        >>> from unsandbox.protocol.contents import Held
        >>> body = encode_pieces({"content": Held(b"hi!")})
        >>> len(body), b"".join(body.chunks())
        (18, b'{"content":"aGkh"}')
    """
    return _encode_pieces(value, escapes=False)


def _encode_pieces(value: WireModel | Mapping[str, Any], *, escapes: bool) -> bytes | Pieces:
    plain = to_wire(value, whole=False) if isinstance(value, WireModel) else value
    try:
        return _encoder.encode(plain)
    except (TypeError, UnicodeEncodeError, OverflowError, msgspec.MsgspecError):
        pass  # It has a content in a file, or an invalid value; the slow way finds out which.
    contents: list[Content] = []
    mark = os.urandom(16).hex()  # Nobody who wrote the values can know it.

    def note(item: object) -> str:
        if not isinstance(item, Content):
            raise TypeError(f"Encoding objects of type {type(item).__name__} is unsupported")
        contents.append(item)
        return mark

    try:
        encoded = _written(msgspec.json.Encoder(enc_hook=note), plain)
    except InvalidRequestError as error:
        if not escapes or not isinstance(error.__cause__, UnicodeEncodeError):
            raise
        contents.clear()
        text = json.dumps(plain, default=note, ensure_ascii=False, separators=(",", ":"))
        try:
            encoded = text.encode("utf-8", "surrogateescape")
        except UnicodeEncodeError:
            raise error from None
    if not contents:
        return encoded
    first, *others = encoded.split(mark.encode())
    return Pieces([first, *(part for pair in zip(contents, others, strict=True) for part in pair)])


def loads(body: bytes) -> Any:
    """Decode a JSON text.

    Bytes that are not UTF-8 become lone surrogates (PEP 383), which encode back to the same bytes.

    Raises:
        ValueError: It is not JSON; the message names the place, not the content.
    """
    try:
        try:
            return _decoder.decode(body)
        except UnicodeDecodeError:
            return json.loads(body.decode("utf-8", "surrogateescape"))
        except msgspec.DecodeError as error:
            if "utf-8" in str(error).lower():
                return json.loads(body.decode("utf-8", "surrogateescape"))
            raise ValueError(str(error)) from error
    except RecursionError as error:
        raise ValueError("JSON nested too deeply") from error


def loads_object(body: bytes) -> dict[str, Any]:
    """Decode a request body that must be a JSON object; absent, `{}`, `[]` and `null` mean "no arguments".

    Raises:
        ValueError: It is not JSON, or not an object.
    """
    if body.strip() in _NO_BODY:
        return {}
    value = loads(body)
    if not isinstance(value, dict):
        raise ValueError(f"the body must be a JSON object, not {_kind(value)}")  # noqa: TRY004 - one error kind
    return value


def from_wire(value: Mapping[str, Any], model: type[T]) -> T:
    """Build a model from a decoded JSON object, aliases resolved and bounds checked at every level.

    Raises:
        BoundExceededError: A text, list or mapping is longer than a request of this type may have.
        ValueError: A field is missing or of the wrong type; the message names the field, not its value.

    Example:
        >>> from unsandbox.protocol.models import ExecuteRequest
        >>> from_wire({"language": "c", "code": "", "network": "zerotrust"}, ExecuteRequest).network_mode
        'zerotrust'
    """
    members = _canonical(value, model)
    try:
        return msgspec.convert(members, model, strict=False)
    except msgspec.ValidationError as error:
        raise ValueError(explain(str(error), members, model)) from error


def response_from_wire(value: Any, model: type[T]) -> T:
    """Build a response model, as `from_wire`, with the error that a client raises.

    Raises:
        InvalidResponseError: The answer is not an object or a field is of the wrong type.
    """
    if not isinstance(value, dict):
        raise InvalidResponseError(f"the server's answer is {_kind(value)}, not an object")
    try:
        return fill_in(from_wire(value, model))
    except ValueError as error:
        raise InvalidResponseError(f"the server's answer does not fit {model.__name__}: {error}") from error


def _canonical(value: Mapping[str, Any], model: type[WireModel], path: str = "") -> dict[str, Any]:
    result = {name: item for name, item in value.items() if item is not None}
    for alias, name in model.READ_ALIASES.items():
        if alias in result:
            result.setdefault(name, result.pop(alias))
    for name, fix in model.COERCERS.items():
        if name in result:
            result[name] = fix(result[name])
    check_bounds(result, model, path)
    for name, item_model in nested(model).items():
        if isinstance(items := result.get(name), list):
            result[name] = [
                _canonical(item, item_model, f"{path}{name}[{number}].") if isinstance(item, dict) else item
                for number, item in enumerate(items)
            ]
    return result


def _kind(value: object) -> str:
    names = {dict: "an object", list: "a list", str: "a text", bool: "a boolean", type(None): "null"}
    return names.get(type(value), "a number")
