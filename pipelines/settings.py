"""What a settings file and a contract are read as, and how a mistake in one is told."""

from __future__ import annotations

import json
import types
import typing

from pydantic import BaseModel, ConfigDict, ValidationError


class Settings(BaseModel):
    model_config = ConfigDict(
        frozen=True, strict=True, extra="forbid", use_attribute_docstrings=True
    )


def explain(error: ValidationError, file: str, model: type[BaseModel] | None = None) -> str:
    """One line a mistake: file, key, value, what is allowed."""
    lines = []
    for item in error.errors():
        where = ".".join(str(part) for part in item["loc"])
        if item["type"] == "extra_forbidden":
            known = _keys_at(model, item["loc"][:-1]) if model else ()
            allowed = f"; allowed are: {', '.join(known)}" if known else ""
            lines.append(f"{file}: {where} is not a known key{allowed}")
        elif item["type"] == "missing":
            lines.append(f"{file}: {where} is missing")
        else:
            value = json.dumps(item["input"], default=str)
            shown = value if len(value) < 80 else value[:77] + "..."
            lines.append(f"{file}: {where or 'content'} is {shown}: {item['msg']}")
    return "\n".join([*lines, f"Mend it with: edit {file}"])


def _keys_at(model: type[BaseModel], loc: tuple[int | str, ...]) -> tuple[str, ...]:
    """Names of the keys of the settings at `loc`, following dicts and unions."""
    here: object = model
    for part in loc:
        if isinstance(here, type) and issubclass(here, BaseModel):
            found = here.model_fields.get(str(part))
            here = found.annotation if found else None
        elif typing.get_origin(here) is dict:
            here = typing.get_args(here)[1]
        if isinstance(here, types.UnionType):
            here = next(
                (
                    a
                    for a in typing.get_args(here)
                    if isinstance(a, type) and issubclass(a, BaseModel)
                ),
                None,
            )
    if isinstance(here, type) and issubclass(here, BaseModel):
        return tuple(here.model_fields)
    return ()
