"""JSON Schemas of what `jaxsim.records.plain` makes of a type hint."""

import dataclasses
import inspect
import types
import typing
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

_PLAIN: Mapping[Any, str] = {
    str: "string", Path: "string", bool: "boolean", int: "integer", float: "number",
    types.NoneType: "null",
}  # fmt: skip


def json_schema(kind: Any) -> dict[str, Any]:
    """The schema of a type hint; dataclasses and typed dictionaries are `$defs`."""
    known: dict[str, Any] = {}
    schema = _schema(kind, known)
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema} | (
        {"$defs": dict(sorted(known.items()))} if known else {}
    )


def _schema(kind: Any, known: dict[str, Any]) -> dict[str, Any]:
    origin, args = typing.get_origin(kind), typing.get_args(kind)
    if kind is Any:
        return {}
    if dataclasses.is_dataclass(kind) or typing.is_typeddict(kind):
        return _named(kind, known)
    if origin is Annotated:
        return _schema(args[1], known)
    if origin is typing.NotRequired:
        return _schema(args[0], known)
    if origin is Literal:
        return {"enum": list(args)}
    if origin in (types.UnionType, typing.Union):
        parts = [_schema(part, known) for part in args]
        if all(part.keys() == {"type"} for part in parts):
            return {"type": [part["type"] for part in parts]}
        return {"anyOf": parts}
    if origin in (dict, Mapping):
        return {"type": "object", "additionalProperties": _schema(args[1], known)}
    if origin in (list, Sequence) or (origin is tuple and args[-1] is Ellipsis):
        return {"type": "array", "items": _schema(args[0], known)}
    if origin is tuple:
        parts, size = [_schema(part, known) for part in args], len(args)
        return {
            "type": "array", "prefixItems": parts, "minItems": size, "maxItems": size,
        }  # fmt: skip
    return {"type": _PLAIN[kind]}


def _named(kind: Any, known: dict[str, Any]) -> dict[str, Any]:
    """A reference to the definition of a dataclass or typed dictionary."""
    name = kind.__name__.lstrip("_")
    if name not in known:
        known[name] = {}  # it may contain itself
        hints = typing.get_type_hints(kind, include_extras=True)
        known[name] = {
            "description": (inspect.getdoc(kind) or name).partition("\n")[0],
            "type": "object",
            "properties": {key: _schema(hint, known) for key, hint in hints.items()},
            "required": [
                key for key in hints if key in getattr(kind, "__required_keys__", hints)
            ],
            "additionalProperties": False,
        }
    return {"$ref": f"#/$defs/{name}"}
