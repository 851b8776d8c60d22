"""Results in models of Pydantic, and so in the answers of FastAPI."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

__all__ = ["core_schema_of"]


def core_schema_of(
    model: type[Any], make: Callable[[Mapping[str, Any]], Any], plain: Callable[[Any], dict[str, Any]]
) -> Any:
    """Return how Pydantic checks and writes a result; called by Pydantic, which is there then.

    Args:
        model: Type of the result.
        make: Makes a result of a mapping.
        plain: Makes a mapping of a result.
    """
    from pydantic_core import core_schema

    made = core_schema.no_info_plain_validator_function(make)
    there = core_schema.is_instance_schema(model)
    return core_schema.union_schema(
        [there, core_schema.chain_schema([core_schema.dict_schema(), made])],
        serialization=core_schema.plain_serializer_function_ser_schema(
            plain, return_schema=core_schema.dict_schema(core_schema.str_schema())
        ),
    )
