"""What a value must be, in our words, from what pydantic says of one that does not fit."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

_RULES: dict[str, str | Callable[[Mapping[str, Any]], str]] = {
    "int_type": "be a whole number",
    "int_parsing": "be a whole number",
    "int_from_float": "be a whole number",
    "float_type": "be a number",
    "float_parsing": "be a number",
    "finite_number": "be a finite number",
    "bool_type": "be true or false",
    "bool_parsing": "be true or false",
    "string_type": "be text",
    "string_sub_type": "be text",
    "string_pattern_mismatch": "begin with a letter or digit, and hold only letters, digits, '.', '_' and '-'",
    "string_too_short": "not be empty",
    "list_type": "be a list",
    "tuple_type": "be a list",
    "sequence_str": "be a list",
    "is_instance_of": lambda c: "be a list" if c["class"] == "Sequence" else f"be a {c['class']}",
    "dict_type": "be a mapping",
    "model_type": "be a mapping",
    "model_attributes_type": "be a mapping",
    "dataclass_type": "be a mapping",
    "mapping_type": "be a mapping",
    "callable_type": "be a function",
    "literal_error": lambda c: f"be {c['expected']}",
    "greater_than": lambda c: f"be greater than {c['gt']:g}",
    "greater_than_equal": lambda c: f"be at least {c['ge']:g}",
    "less_than": lambda c: f"be less than {c['lt']:g}",
    "less_than_equal": lambda c: f"be at most {c['le']:g}",
    "too_short": lambda c: f"have {_entries(c['min_length'])} at least",
    "too_long": lambda c: f"have {_entries(c['max_length'])} at most",
    "missing": "have more entries",
    "extra_forbidden": "have no such key",
    "value_error": lambda c: str(c["error"]),
    "assertion_error": lambda c: str(c["error"]),
}


def _entries(count: int) -> str:
    return "one entry" if count == 1 else f"{count} entries"


def rule(problem: Mapping[str, Any]) -> str:
    """The rule that a value breaks, to go on after "it must".

    Parameters
    ----------
    problem : mapping
        One entry of ``ValidationError.errors()``.

    Examples
    --------
    >>> rule({"type": "greater_than", "ctx": {"gt": 0.0}})
    'be greater than 0'
    >>> rule({"type": "a type of a later pydantic", "ctx": {}})
    'be of another kind'
    """
    words = _RULES.get(problem["type"], "be of another kind")
    return words if isinstance(words, str) else words(problem.get("ctx") or {})


def must(problems: Sequence[Mapping[str, Any]]) -> str:
    """All rules that one value breaks, as in a union of kinds: ``it must be a whole number or 'limit'``.

    Examples
    --------
    >>> must([{"type": "int_type"}, {"type": "literal_error", "ctx": {"expected": "'limit'"}}])
    "it must be a whole number or 'limit'"
    """
    rules = dict.fromkeys(rule(problem) for problem in problems)
    return "it must " + " or ".join(rules).replace(" or be ", " or ")
