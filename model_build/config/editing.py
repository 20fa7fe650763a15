"""Overrides written into a YAML file: the line of each key changes, comments and layout stay."""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import yaml
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import MappingNode, Node, ScalarNode, SequenceNode

from model_build._errors import ConfigurationError

EXAMPLE = """expected KEY=VALUE, such as train.epochs=5 or "data.path='my #1.csv'" """.strip()


@dataclass(frozen=True)
class Change:
    """One override: a key's new value, or the key taken out.

    Attributes:
        typed: the value as it was typed.
    """

    key: tuple[str, ...]
    value: Any
    typed: str | None
    removed: bool


def parse_overrides(overrides: Sequence[str]) -> list[Change]:
    """Read Hydra overrides; a key need not be in the file yet, with or without `+` before it.

    Raises:
        ConfigurationError: one is no override of a single key.
    """
    parser, changes = OverridesParser.create(), []
    for one in overrides:
        try:
            parsed = parser.parse_override(one)
        except HydraException as error:
            reason = str(error).strip().splitlines()[0]
            raise ConfigurationError(f"override '{one}' cannot be read ({reason}): {EXAMPLE}") from error
        if parsed.package is not None or "/" in parsed.key_or_group or not all(parsed.key_or_group.split(".")):
            raise ConfigurationError(f"override '{one}' names no key of the configuration: {EXAMPLE}")
        if parsed.is_sweep_override():
            raise ConfigurationError(f"override '{one}' has several values: expected one, or a list in brackets")
        value = None if parsed.value_type is None else parsed.value()
        changes.append(Change(tuple(parsed.key_or_group.split(".")), value, one.partition("=")[2], parsed.is_delete()))
    return changes


def edit(text: str, change: Change) -> str:
    """The YAML of a mapping with one change in it.

    Raises:
        ConfigurationError: the key is no key of a mapping, or the file is written in a way that one line cannot change.
    """
    if isinstance(change.value, dict) and _is_mapping(text, change.key):  # as Hydra does: a mapping is merged
        for key, value in change.value.items():
            text = edit(text, Change((*change.key, str(key)), value, None, removed=False))
        return text
    name = ".".join(change.key)
    wanted = _applied(_values(text), change)
    edited = _edited(text, yaml.compose(text, Loader=yaml.SafeLoader), change)
    try:
        found = _values(edited)
    except (yaml.YAMLError, OmegaConfBaseException):
        found = None
    if _shape(found) != _shape(wanted):
        raise ConfigurationError(f"{name} cannot be changed alone where the file has anchors or tags: edit it by hand")
    return edited


def _values(text: str) -> Any:
    return OmegaConf.to_container(OmegaConf.create(text), resolve=False)


def _is_mapping(text: str, key: Sequence[str]) -> bool:
    """Whether the key holds a mapping."""
    found = _values(text)
    for one in key:
        found = found.get(one) if isinstance(found, dict) else None
    return isinstance(found, dict)


def _shape(value: Any) -> str:
    """Tells 1 from true and from 1.0, which are equal, and takes NaN for equal to itself; order is no difference."""
    return json.dumps(value, sort_keys=True, default=repr)


def _applied(values: Any, change: Change) -> Any:
    """`values` with the change."""
    new = copy.deepcopy(values)
    *parents, last = change.key
    holder, way = new, []
    for key in parents:
        way.append(key)
        if holder.get(key) is None:
            holder[key] = {}
        holder = holder[key]
        if not isinstance(holder, dict):
            raise ConfigurationError(
                f"{'.'.join(change.key)}: {'.'.join(way)} is {holder}, which has no keys of its own"
            )
    if change.removed:
        if last not in holder:
            raise ConfigurationError(f"{'.'.join(change.key)} is not in the file: nothing to take out")
        if change.typed and holder[last] != change.value:
            raise ConfigurationError(
                f"{'.'.join(change.key)} is {holder[last]}, not {change.value}: nothing was taken out"
            )
        del holder[last]
    else:
        holder[last] = change.value
    return new


def _edited(text: str, node: Node | None, change: Change) -> str:
    key, *rest = change.key
    if not isinstance(node, MappingNode):  # an empty file
        return text + f"{key}: {_nested(rest, change)}\n"
    pair = next((one for one in reversed(node.value) if one[0].value == key), None)
    if pair is None:
        return _inserted(text, node, f"{_write(key)}: {_nested(rest, change)}")
    found, value = pair
    if rest and isinstance(value, MappingNode) and value.value:
        return _edited(text, value, replace(change, key=tuple(rest)))
    if change.removed:
        return _removed(text, node, pair)
    if isinstance(value, SequenceNode) and not value.flow_style and isinstance(change.value, list) and not rest:
        return _replaced_items(text, found, value, change.value)
    new = _nested(rest, change)
    start, end = value.start_mark.index, _end(value, found, text)
    if start >= end or (isinstance(value, MappingNode | SequenceNode) and not value.flow_style):
        colon = text.index(":", found.end_mark.index) + 1
        dropped = text[start:end] if start < end else ""
        text = text[:start].rstrip(" \n\r") + text[end:] if dropped and "\n" in text[colon:start] else text
        return f"{text[:colon]} {new}{text[colon:]}"
    return text[:start] + new + text[end:]


def _nested(rest: Sequence[str], change: Change) -> str:
    """The value in YAML's flow style, below the keys that are not in the file yet."""
    new = _write(change.value, change.typed)
    for key in reversed(rest):
        new = f"{{{_write(key)}: {new}}}"
    return new


def _inserted(text: str, node: MappingNode, line: str) -> str:
    if node.flow_style or not node.value:
        at, comma = (
            (_end(node.value[-1][1], node.value[-1][0], text), ", ") if node.value else (node.start_mark.index + 1, "")
        )
        return f"{text[:at]}{comma}{line}{text[at:]}"
    at = _line_end(text, _end(node.value[-1][1], node.value[-1][0], text))
    newline = "\r\n" if "\r\n" in text else "\n"
    before = text[:at] if text[:at].endswith("\n") else text[:at] + newline
    return f"{before}{' ' * node.start_mark.column}{line}{newline if text[:at].endswith(chr(10)) else ''}{text[at:]}"


def _removed(text: str, node: MappingNode, pair: tuple[Node, Node]) -> str:
    start, end = pair[0].start_mark.index, _end(pair[1], pair[0], text)
    if not node.flow_style:
        return text[: start - pair[0].start_mark.column] + text[_line_end(text, end) :]
    index = node.value.index(pair)
    if index:
        return text[: _end(node.value[index - 1][1], node.value[index - 1][0], text)] + text[end:]
    return text[:start] + text[node.value[1][0].start_mark.index if len(node.value) > 1 else end :]


def _replaced_items(text: str, key: Node, node: SequenceNode, values: Sequence[Any]) -> str:
    """A list of one item a line, those at its beginning that stay left alone."""
    old = [_scalar(text, item, key) for item in node.value]
    pairs = zip(old, values, strict=False)
    same = next((index for index, (one, new) in enumerate(pairs) if _shape(one) != _shape(new)), len(values))
    same = min(same, len(old))
    newline = "\r\n" if "\r\n" in text else "\n"
    lines = [f"{' ' * node.start_mark.column}- {_write(value)}" for value in values[same:]]
    last = _end(node.value[-1], key, text)
    if same == len(old):
        at = _line_end(text, last)
        added = "".join(line + newline for line in lines)
        return text[:at] + added + text[at:] if text[:at].endswith("\n") else text[:at] + newline + added + text[at:]
    first = text.rindex("-", 0, node.value[same].start_mark.index)
    begin = text.rindex("\n", 0, first) + 1
    if values:
        return text[:begin] + "".join(line + newline for line in lines) + text[_line_end(text, last) :]
    colon = text.index(":", key.end_mark.index) + 1
    return f"{text[:colon]} []{text[colon:begin]}{text[_line_end(text, last) :]}"


def _scalar(text: str, item: Node, key: Node) -> Any:
    """The item's value; of a list or a mapping None."""
    written = text[item.start_mark.index : _end(item, key, text)]
    return _values(f"[{written}]")[0] if isinstance(item, ScalarNode) else None


def _end(node: Node, key: Node, text: str) -> int:
    """Where the text of a value ends: PyYAML says of a block where the next one begins."""
    if isinstance(node, MappingNode | SequenceNode) and not node.flow_style and node.value:
        last = node.value[-1]
        return _end(last[1], last[0], text) if isinstance(node, MappingNode) else _end(last, key, text)
    if node.start_mark.index == node.end_mark.index:  # nothing is written there
        return text.index(":", key.end_mark.index) + 1
    end: int = node.end_mark.index
    if isinstance(node, ScalarNode) and node.style in ("|", ">"):
        return len(text[:end].rstrip())
    return end


def _line_end(text: str, index: int) -> int:
    """Where the next line begins."""
    found = text.find("\n", index)
    return len(text) if found < 0 else found + 1


def _write(value: Any, typed: str | None = None) -> str:
    """The value on one line, as it was typed where YAML reads that alike."""
    if isinstance(value, list):
        return f"[{', '.join(map(_write, value))}]"
    if isinstance(value, Mapping):
        return f"{{{', '.join(f'{_write(key)}: {_write(inner)}' for key, inner in value.items())}}}"
    dumped = yaml.safe_dump(value, width=2**20, allow_unicode=True).removesuffix("\n").removesuffix("\n...")
    for text in (typed, dumped):
        if text and "\n" not in text and _reads(text, value):
            return text
    return json.dumps(value)


def _reads(text: str, value: Any) -> bool:
    try:
        found = _values(f"[{text}]")
    except (yaml.YAMLError, OmegaConfBaseException):
        return False
    return isinstance(found, list) and len(found) == 1 and _shape(found[0]) == _shape(value)
