"""YAML as sweep files have it: mappings, lists, text and the plain values of YAML 1.2's core schema.

No tags, no dates, no sets; `yes` and `1:30` are text, `1e-4` is a number. What is read, and what a program
hands in for it, is bounded in size and depth, aliases unfolded.
"""

import math
import re
from collections.abc import Iterator, Mapping
from numbers import Integral, Real
from pathlib import PurePath
from typing import Any, NamedTuple

import yaml
from pydantic import BaseModel

MAX_NODES = 10_000
"""Keys, values and items of a file, each as often as aliases repeat it."""
MAX_DEPTH = 32
MAX_TEXT = 20_000
"""Characters of one text."""
MAX_DIGITS = 1000
"""Characters of one number."""

_CONSTANTS = {
    **dict.fromkeys(("", "~", "null", "Null", "NULL")),
    **dict.fromkeys(("true", "True", "TRUE"), True),
    **dict.fromkeys(("false", "False", "FALSE"), False),
    **dict.fromkeys((".inf", ".Inf", ".INF", "+.inf", "+.Inf", "+.INF"), math.inf),
    **dict.fromkeys(("-.inf", "-.Inf", "-.INF"), -math.inf),
    **dict.fromkeys((".nan", ".NaN", ".NAN"), math.nan),
}
_DECIMAL = re.compile(r"[-+]?[0-9](?:_?[0-9])*")
_OTHER_BASES = {"0o": (8, re.compile(r"0o[0-7]+")), "0x": (16, re.compile(r"0x[0-9a-fA-F]+"))}
_FLOAT = re.compile(r"[-+]?(?:\.[0-9]+|[0-9](?:_?[0-9])*(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?")
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff]")
_MERGE = "<<"


def load_yaml(text: str) -> Any:
    """The one document in `text`, None for an empty one. ValueError says what is wrong."""
    try:
        return _Builder(text).document()
    except (yaml.YAMLError, OverflowError, RecursionError) as error:  # \UFFFFFFFF is an OverflowError
        raise ValueError(str(error)) from error


def dump_yaml(values: Mapping[str, Any], flow: bool | None = False, width: int = 100) -> str:
    """Plain values as YAML that `load_yaml`, and readers of YAML 1.1, read as the same values."""
    text: str = yaml.dump(
        values, Dumper=_Dumper, default_flow_style=flow, sort_keys=False, allow_unicode=True, width=width
    )
    return text


def plain(value: Any) -> Any:
    """A bounded copy of what a program hands in for a file: its keys are text, its numbers Python's own.

    Whole numbers may be keys, models stay as they are. ValueError names the key of anything else.
    """
    return _Plain().copy(value, "")


class _Dumper(yaml.SafeDumper):
    """Quotes text that either version of YAML would read as something else."""


for _kind, _form in (
    ("int", _DECIMAL),
    ("float", _FLOAT),
    *(("int", form) for _, form in _OTHER_BASES.values()),
):
    _Dumper.add_implicit_resolver(
        f"tag:yaml.org,2002:{_kind}", re.compile(f"(?:{_form.pattern})$"), list("-+.0123456789")
    )


class _Node(NamedTuple):
    """A value, how many nodes it is made of, and how deep it is nested."""

    value: Any
    size: int = 1
    height: int = 1


class _Builder:
    """Builds a document from the parser's events, so that nothing is made that is then refused."""

    def __init__(self, text: str) -> None:
        self._events: Iterator[Any] = yaml.parse(text, Loader=yaml.SafeLoader)
        self._anchors: dict[str, _Node] = {}
        self._left = MAX_NODES

    def document(self) -> Any:
        next(self._events)
        event = next(self._events)
        if isinstance(event, yaml.StreamEndEvent):
            return None
        built = self._node(next(self._events), "", 1)
        next(self._events)
        if not isinstance(next(self._events), yaml.StreamEndEvent):
            raise ValueError("holds a second document; keep one")
        return built.value

    def _node(self, event: Any, key: str, depth: int) -> _Node:
        if isinstance(event, yaml.AliasEvent):
            return self._alias(event, key, depth)
        if event.tag is not None:
            raise ValueError(f"{_at(key)}the tag {event.tag} is not taken; remove it")
        self._spend(1, key)
        _check_depth(depth, key)
        if isinstance(event, yaml.ScalarEvent):
            built = _Node(_scalar(event, key))
        elif isinstance(event, yaml.SequenceStartEvent):
            built = self._sequence(key, depth)
        else:
            built = self._mapping(key, depth)
        if event.anchor is not None:
            self._anchors[event.anchor] = built
        return built

    def _alias(self, event: Any, key: str, depth: int) -> _Node:
        named = self._anchors.get(event.anchor)
        if named is None:
            raise ValueError(f"{_at(key)}the alias *{event.anchor} stands for nothing that ends above it")
        self._spend(named.size, key)
        _check_depth(depth + named.height - 1, key)
        return named

    def _sequence(self, key: str, depth: int) -> _Node:
        items: list[_Node] = []
        while not isinstance(event := next(self._events), yaml.SequenceEndEvent):
            items.append(self._node(event, _below(key, len(items)), depth + 1))
        return _around([item.value for item in items], items)

    def _mapping(self, key: str, depth: int) -> _Node:
        items: dict[str, _Node] = {}
        merges: list[_Node] = []
        while not isinstance(event := next(self._events), yaml.MappingEndEvent):
            name = self._key(event, key)
            merge = name == _MERGE and event.style is None
            if name in items or (merge and merges):
                raise ValueError(f"the key '{_below(key, name)}' is there twice; keep one")
            node = self._node(next(self._events), _below(key, name), depth + 1)
            if merge:
                merges.append(node)
            else:
                items[name] = node
        merged = _to_merge(merges[0].value, key) if merges else {}
        own = {name: item.value for name, item in items.items()}
        return _around({**merged, **own}, [*items.values(), *merges])

    def _key(self, event: Any, key: str) -> str:
        """A key is text as it stands: 50 is "50", and null is "null"."""
        if not isinstance(event, yaml.ScalarEvent) or event.tag is not None:
            raise ValueError(f"{_at(key)}a key that is no text")
        return _text(event.value, key)

    def _spend(self, nodes: int, key: str) -> None:
        self._left -= nodes
        if self._left < 0:
            raise ValueError(f"{_at(key)}more than {MAX_NODES:,} values, aliases unfolded")


def _around(value: Any, items: list[_Node]) -> _Node:
    return _Node(
        value,
        1 + sum(item.size for item in items),
        1 + max((item.height for item in items), default=0),
    )


def _to_merge(value: Any, key: str) -> dict[str, Any]:
    """What `<<` adds to a mapping: of several mappings, the first that has a key decides."""
    sources = value if isinstance(value, list) else [value]
    if not all(isinstance(source, dict) for source in sources):
        raise ValueError(f"{_at(key)}<< takes a mapping, or a list of them")
    return {name: item for source in reversed(sources) for name, item in source.items()}


def _scalar(event: Any, key: str) -> Any:
    """A scalar's value: quoted or in a block it is text."""
    text: str = event.value
    if event.style is not None:
        return _text(text, key)
    if text in _CONSTANTS:
        return _CONSTANTS[text]
    base, form = _OTHER_BASES.get(text[:2], (10, _DECIMAL))
    whole = form.fullmatch(text)
    if not whole and not _FLOAT.fullmatch(text):
        return _text(text, key)
    if len(text) > MAX_DIGITS:
        raise ValueError(f"{_at(key)}a number of {len(text):,} characters")
    if whole:
        return int(text.replace("_", ""), base)
    if math.isinf(number := float(text)):
        raise ValueError(f"{_at(key)}{text[:40]} is beyond what a number holds")
    return number


def _text(text: str, key: str) -> str:
    if len(text) > MAX_TEXT:
        raise ValueError(f"{_at(key)}a text of {len(text):,} characters, more than {MAX_TEXT:,}")
    found = _CONTROL.search(text)
    if found:
        what = "a byte that is no UTF-8" if found.group() >= "\ud800" else "the control character"
        raise ValueError(f"{_at(key)}holds {what}: {found.group()!a}; remove it")
    return text


def _check_depth(depth: int, key: str) -> None:
    if depth > MAX_DEPTH:
        raise ValueError(f"{_at(key)}nested more than {MAX_DEPTH} deep")


def _below(key: str, part: object) -> str:
    return f"{key}.{part}" if key else str(part)


def _at(key: str) -> str:
    return f"{key[:200]}: " if key else ""


class _Plain:
    """Counts what it copies."""

    def __init__(self) -> None:
        self._left = MAX_NODES

    def copy(self, value: Any, key: str, depth: int = 1) -> Any:
        self._left -= 1
        if self._left < 0:
            raise ValueError(f"{_at(key)}more than {MAX_NODES:,} values")
        _check_depth(depth, key)
        if isinstance(value, Mapping):
            return {
                (name := _key_text(each, key)): self.copy(item, _below(key, name), depth + 1)
                for each, item in value.items()
            }
        if isinstance(value, (list, tuple)):
            return [self.copy(item, _below(key, place), depth + 1) for place, item in enumerate(value)]
        return _plain_scalar(value, key)


def _key_text(name: object, key: str) -> str:
    if isinstance(name, bool) or not isinstance(name, (str, Integral)):
        raise ValueError(f"{_at(key)}the key {name!r:.40} is no text")
    return _text(name, key) if isinstance(name, str) else str(_plain_scalar(name, key))


def _plain_scalar(value: Any, key: str) -> Any:
    if value is None or isinstance(value, (bool, BaseModel)):
        return value
    if isinstance(value, (str, PurePath)):
        return _text(str(value), key)
    try:
        if isinstance(value, Integral):
            number = int(value)
            if number.bit_length() > 3 * MAX_DIGITS:
                raise ValueError(f"{_at(key)}a number of more than {MAX_DIGITS} digits")
            return number
        if isinstance(value, Real):
            return float(value)
    except OverflowError as error:
        raise ValueError(f"{_at(key)}is beyond what a number holds") from error
    raise ValueError(f"{_at(key)}{type(value).__name__} is neither text, number, list nor mapping")
