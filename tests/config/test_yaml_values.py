"""YAML is read alike by libyaml and by PyYAML's own parser, and nesting cannot end the process."""

from __future__ import annotations

from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from wafergpt.config import yaml_values
from wafergpt.config.yaml_values import dumped, parsed

SCALARS = st.none() | st.booleans() | st.integers(-(10**9), 10**9) | st.text(max_size=20)
VALUES = st.recursive(
    SCALARS | st.floats(allow_nan=False),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=12,
)


@given(st.dictionaries(st.text(min_size=1, max_size=8), VALUES, max_size=4))
def test_what_is_written_is_read_as_it_was(values: dict[str, Any]) -> None:
    text = dumped(values)
    assert yaml.safe_load(text) == values
    assert parsed(text) == values


@given(st.text(st.sampled_from("ab:- \n\r\x85\u2028[]{}'\"#&*!|>?,01.e~%"), max_size=40))
def test_both_parsers_read_and_refuse_the_same(text: str) -> None:
    with pytest.MonkeyPatch.context() as patch:
        fast = _outcome(text)
        patch.setattr(yaml_values, "_LOADER", None)
        assert fast == _outcome(text)


@pytest.mark.skipif(not yaml.__with_libyaml__, reason="PyYAML was built without libyaml")
def test_a_percentage_is_read_by_the_fast_parser() -> None:
    assert isinstance(yaml_values._composed("schedule: {warmup: 5%}")[0], yaml.CSafeLoader)
    assert isinstance(yaml_values._composed("%YAML 1.1\n---\na: 1")[0], yaml.SafeLoader)


def _outcome(text: str) -> tuple[str, str]:
    try:
        return "read", repr(parsed(text))
    except ValueError:
        return "refused", ""


@pytest.mark.slow
@pytest.mark.parametrize("mark", ["[", "{", "- ", "? ", "a:\n"])
def test_deep_nesting_is_one_line(mark: str) -> None:
    deep = "".join(" " * n + mark for n in range(1000)) if mark == "a:\n" else mark * 100_000
    with pytest.raises(ValueError, match=r".") as error:
        parsed(deep)
    assert "\n" not in str(error.value)
