"""params.yaml with some of its values changed, and no other character: comments and layout stay."""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping
from typing import Any

import yaml

from pipelines.errors import ParamsError
from pipelines.paths import PARAMS


def put(text: str, changes: Mapping[tuple[str, ...], Any]) -> str:
    """changes: a plain value by the keys that lead to it; a key that is not there is added.

    Raises ParamsError where it cannot be changed alone, because an anchor shares it.
    """
    for keys, value in changes.items():
        text = _put(text, keys, value)
    return text


def _put(text: str, keys: tuple[str, ...], value: Any) -> str:
    wanted = _content(text)
    here = wanted
    for key in keys[:-1]:
        here = here.setdefault(key, {}) if isinstance(here, dict) else {}
    if isinstance(here, dict):
        here[keys[-1]] = copy.deepcopy(value)
    changed = _changed(text, keys, value)
    try:
        alone = _content(changed) == wanted
    except yaml.YAMLError:
        alone = False
    if not alone:
        raise ParamsError(
            f"{PARAMS}: {'.'.join(keys)} cannot be set to {value} alone: it is shared by an anchor, "
            f"or stands where no key can be added. Write it out with: edit {PARAMS}"
        )
    return changed


def _changed(text: str, keys: tuple[str, ...], value: Any) -> str:
    node: Any = yaml.compose(text)
    for depth, key in enumerate(keys):
        pairs = node.value if isinstance(node, yaml.MappingNode) else []
        found = [inner for name, inner in pairs if name.value == key]
        if not found:
            return _with_more(text, node, _flow(keys[depth:], value))
        node = found[-1]
    return f"{text[: node.start_mark.index]}{_scalar(value)}{text[node.end_mark.index :]}"


def _with_more(text: str, node: Any, more: str) -> str:
    """`more` behind the last pair of a mapping, in the mapping's own style."""
    if not isinstance(node, yaml.MappingNode) or not node.value:
        at = node.start_mark.index
        if text[at : at + 1] != "{":
            return text
        return f"{text[: at + 1]}{more}{text[at + 1 :]}"
    last = node.value[-1][1].end_mark.index
    if node.flow_style:
        return f"{text[:last]}, {more}{text[last:]}"
    # A block's end lies behind the comments that follow it; its last value is the way back.
    first = node.value[0][0].start_mark
    end = "\r\n" if "\r\n" in text else "\n"
    before = text[: _end_of(node.value[-1][1])]
    rest = text[len(before) :]
    line, newline, after = rest.partition(end)
    return f"{before}{line}{end}{' ' * first.column}{more}{newline}{after}"


def _end_of(node: Any) -> int:
    """Where the last plain value or flow collection inside a node ends."""
    while not isinstance(node, yaml.ScalarNode) and node.value and not node.flow_style:
        last = node.value[-1]
        node = last[1] if isinstance(last, tuple) else last
    return int(node.end_mark.index)


def _flow(keys: tuple[str, ...], value: Any) -> str:
    first, *rest = keys
    return f"{first}: {'{' + _flow(tuple(rest), value) + '}' if rest else _scalar(value)}"


def _scalar(value: Any) -> str:
    """As YAML 1.1 reads it back: 1e-05 would be a text, 1.0e-05 is a number."""
    return str(yaml.safe_dump(value, default_flow_style=True).splitlines()[0])


def _content(text: str) -> Any:
    """What a YAML text says, where no two places are one object, as an anchor would make them."""
    return json.loads(json.dumps(yaml.safe_load(text), default=str))
