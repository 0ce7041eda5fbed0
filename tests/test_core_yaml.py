"""YAML's core and nothing else: what is read, what is refused, and that no input takes time or memory."""

import math
import time
from datetime import date
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from pareto_amb import search_spaces
from pareto_amb.config_file import to_yaml
from pareto_amb.core_yaml import MAX_DEPTH, MAX_NODES, dump_yaml, load_yaml, plain
from pareto_amb.sweep_file import parse_sweep

SPACES = Path(search_spaces.__file__).parent


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("", None),
        ("~", None),
        ("null", None),
        ("true", True),
        ("False", False),
        ("yes", "yes"),
        ("off", "off"),
        ("12", 12),
        ("-0", 0),
        ("7_680_000", 7_680_000),
        ("0o17", 15),
        ("0x1F", 31),
        ("010", 10),
        ("1e-4", 1e-4),
        ("1.0e-4", 1e-4),
        (".5", 0.5),
        ("5.", 5.0),
        ("1E+3", 1000.0),
        ("-.inf", -math.inf),
        ("1:30", "1:30"),
        ("2001-01-01", "2001-01-01"),
        ("2001-13-45", "2001-13-45"),
        ("1_", "1_"),
        ("0b1", "0b1"),
        ("'12'", "12"),
        ('"null"', "null"),
        ("|\n  a\n  b\n", "a\nb\n"),
        ("{50: a, null: b, 1.50: c, yes: d}", {"50": "a", "null": "b", "1.50": "c", "yes": "d"}),
        ("[a, [b], {c: d}]", ["a", ["b"], {"c": "d"}]),
        ("a: &x [1, 2]\nb: *x", {"a": [1, 2], "b": [1, 2]}),
        ("a: &x {p: 1, q: 2}\nb:\n  q: 3\n  <<: *x", {"a": {"p": 1, "q": 2}, "b": {"p": 1, "q": 3}}),
        ("\ufeffa: 1", {"a": 1}),
    ],
)
def test_core_values_are_read(text: str, value: Any) -> None:
    read = load_yaml(text)
    assert read == value
    assert type(read) is type(value)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("!!python/object/apply:os.system [x]", "tag"),
        ("a: !!set {x}", "a: the tag"),
        ("a: !!binary aGk=", "a: the tag"),
        ("!x y", "the tag !x"),
        ("a: 1\nb: 2\na: 3", "the key 'a' is there twice"),
        ("a: {b: 1, 'b': 2}", "the key 'a.b' is there twice"),
        ("? [x]\n: 1", "a key that is no text"),
        ("&a [*a]", "alias *a"),
        ("a: *b", "a: the alias *b"),
        ("a: {<<: 3}", "a: << takes a mapping"),
        ("a: " + "1" * 5000, "a: a number of 5,000 characters"),
        ("a: 0x" + "f" * 5000, "a: a number of"),
        ("a: 1e999999", "a: 1e999999 is beyond"),
        ("a: " + "x" * 30_000, "a: a text of 30,000 characters"),
        ('a: "\\0"', "a: holds the control character: '\\x00'"),
        ('a: "\\ud800"', "no UTF-8: '\\ud800'"),
        ('a: "\\UFFFFFFFF"', ""),
        ('"\\e": 1', "holds the control character"),
        ("a: 1\n---\nb: 2", "second document"),
        ("%YAML " + "9" * 5000 + ".1\n---\na", ""),
        ("a: [1", ""),
        ("a\x00b", "special characters"),
        ("[" * (MAX_DEPTH + 1) + "]" * (MAX_DEPTH + 1), "nested more than"),
        ("- " * 5000, "nested more than"),
        ("[" * 5000, "nested more than"),
        ("{a: " * 5000, "nested more than"),
        ("[" + "1," * MAX_NODES + "]", "more than 10,000 values"),
    ],
)
def test_all_else_is_refused_by_its_key_at_once(text: str, words: str) -> None:
    began = time.perf_counter()
    with pytest.raises(ValueError, match=r"(?s).") as caught:
        load_yaml(text)
    assert words in str(caught.value)
    assert time.perf_counter() - began < 5


def test_aliases_count_as_often_as_they_stand() -> None:
    bomb = ["a0: &a0 x"] + [f"a{k}: &a{k} [{'*a%d, ' % (k - 1) * 9}]" for k in range(1, 20)]  # noqa: UP031
    with pytest.raises(ValueError, match="aliases unfolded"):
        load_yaml("\n".join(bomb))
    chain = ["a0: &a0 x"] + [f"a{k}: &a{k} [*a{k - 1}]" for k in range(1, 100)]
    with pytest.raises(ValueError, match="nested more than"):
        load_yaml("\n".join(chain))


@pytest.mark.parametrize("path", sorted(SPACES.glob("*.yaml")), ids=lambda path: path.stem)
def test_files_that_were_valid_read_as_they_did(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert load_yaml(text) == yaml.safe_load(text)
    written = to_yaml(parse_sweep(search_spaces.load(path.stem), path.stem))
    assert load_yaml(written) == yaml.safe_load(written)


texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=20).filter(
    lambda text: not any(ord(c) < 32 or 127 <= ord(c) < 160 for c in text)
)
spelled = st.sampled_from(
    ["1e5", "1e-4", "0o7", "0x1F", "yes", "~", "", "1:30", "2001-01-01", ".5", "=", "<<", "1_0"]
)
scalars = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | texts | spelled
values = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(texts, inner, max_size=4),
    max_leaves=12,
)


@settings(max_examples=200, deadline=None)
@given(st.dictionaries(texts | spelled, values, max_size=4))
def test_what_is_written_reads_as_it_was_here_and_with_yaml_1_1(value: dict[str, Any]) -> None:
    written = dump_yaml(value)
    assert load_yaml(written) == value
    assert yaml.safe_load(written) == value


@settings(max_examples=300, deadline=None)
@given(st.text(max_size=60) | st.text("[]{}&*!|>-:?,'\"\\ \nab01.e<%#~x", max_size=60))
def test_any_text_is_read_or_refused(text: str) -> None:
    try:
        read = load_yaml(text)
    except ValueError:
        return
    assert repr(plain(read)) == repr(read)


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ({None: 1}, "the key None is no text"),
        ({"a": {(1, 2): 1}}, r"a: the key \(1, 2\) is no text"),
        ({"a": {1, 2}}, "a: set is neither"),
        ({"a": b"x"}, "a: bytes is neither"),
        ({"a": date(2001, 1, 1)}, "a: date is neither"),
        ({"a": 1j}, "a: complex is neither"),
        ({"a": [10**5000]}, "a.0: a number of more than"),
        ({"a": "\x1b"}, "a: holds the control character"),
    ],
)
def test_what_a_program_hands_in_is_held_to_the_same(value: Any, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        plain(value)


def test_circles_and_bombs_of_a_program_end() -> None:
    circle: list[Any] = []
    circle.append(circle)
    with pytest.raises(ValueError, match="nested more than"):
        plain(circle)
    bomb: list[Any] = ["x"] * 9
    for _ in range(20):
        bomb = [bomb] * 9
    with pytest.raises(ValueError, match="more than 10,000 values"):
        plain(bomb)
