"""pydantic's errors become one problem and one remedy, with the name, the value and what to use instead."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import pytest
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass

from eoaug.errors import ParameterError, explain_validation


class Inner(BaseModel):
    model_config = ConfigDict(extra="forbid")

    count: int = Field(default=1, ge=1)
    needed: str


def _even(number: int) -> int:
    if number % 2:
        raise ParameterError(f"even={number} is odd", "e.g. even=2")
    return number


class Outer(BaseModel):
    model_config = ConfigDict(extra="forbid")

    mode: Literal["a", "b"] = "a"
    pair: tuple[float, float] = (0.0, 1.0)
    even: Annotated[int, AfterValidator(_even)] = 2
    inner: Inner | None = None


@dataclass(config=ConfigDict(extra="forbid"))
class Plain:
    mode: Literal["a", "b"] = "a"


EXAMPLES = {"pair": "pair=(0, 1)", "inner.needed": "needed: x"}

WRONG: dict[str, tuple[type, dict[str, Any], str, str]] = {
    "a name": (Outer, {"mod": "a"}, "it has no option 'mod'", "did you mean 'mode'? the options are mode, pair, even, inner"),
    "a name of a dataclass": (Plain, {"mod": "a"}, "it has no option 'mod'", "did you mean 'mode'? the options are mode"),
    "a name inside an optional model": (
        Outer, {"inner": {"needed": "x", "counts": 1}}, "it has no option 'inner.counts'",
        "did you mean 'count'? the options are count, needed",
    ),
    "a choice": (Outer, {"mode": "c"}, "it: mode='c' is not valid: it should be 'a' or 'b'", "use 'a' or 'b'"),
    "a range": (
        Outer, {"inner": {"needed": "x", "count": 0}},
        "it: inner.count=0 is not valid: it should be greater than or equal to 1", "correct that value",
    ),
    "a missing name": (Outer, {"inner": {}}, "it has no 'inner.needed'", "add it, e.g. needed: x"),
    "a missing number": (Outer, {"pair": (1.0,)}, "it: pair.1=(1.0,) is not valid: it is missing", "e.g. pair=(0, 1)"),
    "an error of ours": (Outer, {"even": 3}, "even=3 is odd", "e.g. even=2"),
}  # fmt: skip


@pytest.mark.parametrize("case", WRONG)
def test_an_error_names_what_is_wrong_and_what_to_use(case: str) -> None:
    model, options, problem, remedy = WRONG[case]
    with pytest.raises(ValidationError) as caught:
        TypeAdapter(model).validate_python(options)
    assert explain_validation(caught.value, model, "it", EXAMPLES) == (problem, remedy)


def test_the_word_for_a_name_is_an_argument() -> None:
    with pytest.raises(ValidationError) as caught:
        TypeAdapter(Plain).validate_python({"mod": "a"})
    problem, remedy = explain_validation(caught.value, Plain, "it", noun="key")
    assert problem == "it has no key 'mod'"
    assert remedy == "did you mean 'mode'? the keys are mode"
