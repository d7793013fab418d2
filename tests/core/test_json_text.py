"""JSON of strangers: values as ``json`` reads them, and what is nested too deep refused before the stack is used."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from odin_slm.core import json_text
from odin_slm.core.json_text import DEEPEST

TEXTS = st.text(st.sampled_from('[]{}"\\,:\n\u00e9\ud800 a'))
VALUES = st.recursive(st.none() | st.integers() | TEXTS, lambda few: st.lists(few) | st.dictionaries(TEXTS, few))


@settings(max_examples=50)
@given(st.lists(VALUES), st.booleans(), st.sampled_from([None, 1]))
def test_values_are_those_of_json(value: list[Any], ascii_only: bool, indent: int | None) -> None:
    text = json.dumps([value, [[]] * DEEPEST], ensure_ascii=ascii_only, indent=indent)
    assert json_text.loads(text) == json.loads(text)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32-le"])
def test_bytes_are_decoded(encoding: str) -> None:
    assert json_text.loads('{"caf\u00e9": ["]"]}'.encode(encoding)) == {"caf\u00e9": ["]"]}


@given(TEXTS)
def test_the_deepest_that_is_read(key: str) -> None:
    begin, end = f"{{{json.dumps(key)}: [", "]}"
    half = DEEPEST // 2
    assert json_text.loads(begin * half + end * half)
    with pytest.raises(json.JSONDecodeError, match=f"Nested more than {DEEPEST} deep") as caught:
        json_text.loads(f"\n[[{begin * half}{end * half}]]")
    assert (caught.value.lineno, caught.value.doc[caught.value.pos :][:2]) == (2, '{"')


@pytest.mark.parametrize("text", ["[" * 10**6, '{"a":' * 10**5, '[{"":' * 10**5, '["' * 10**5, "]" * 300 + "[" * 600])
def test_no_text_uses_up_the_stack(text: str) -> None:
    with pytest.raises(json.JSONDecodeError):
        json_text.loads(text)


@pytest.mark.parametrize(
    "text",
    [
        "NaN",
        "[-Infinity, 1e999]",
        '{"a": 1, "a": 2}',
        '"\\ud800"',
        "-0.0",
        "5e-324",
        "123456789.123456789123",
        "9" * 30,
    ],
)
def test_what_parsers_differ_in_is_read_as_python_reads_it(text: str) -> None:
    assert repr(json_text.loads(text)) == repr(json_text.loads(text.encode())) == repr(json.loads(text))


@pytest.mark.parametrize(
    "text", ["", "01", "+1", ".5", "1.", "[1,]", '{"a"}', "'a'", '"a\nb"', "1 2", "\ufeff1", "9" * 5000]
)
def test_what_python_refuses_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"line 1|Exceeds"):
        json_text.loads(text)
