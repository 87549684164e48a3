"""Ragged inputs and templates against lists of lists."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from embedkit.errors import UserError
from embedkit.models.augment.template_bias import bare_templates
from embedkit.models.inputs.inputs import Inputs
from embedkit.models.inputs.tokens import TextTokenizer, ended, is_prefix, resolve_prompt
from tests.helpers import tiny

rows_of = st.lists(st.lists(st.integers(0, 99), min_size=1, max_size=6), min_size=1, max_size=8)


@given(rows_of, st.data())
def test_select_is_indexing_of_a_list(rows: list[list[int]], data: st.DataObject) -> None:
    inputs = Inputs.of(rows, marks=[len(row) - 1 for row in rows])
    index = data.draw(st.lists(st.integers(0, len(rows) - 1), max_size=10))
    part = inputs.select(index)
    assert part.rows() == [rows[i] for i in index]
    assert part.marks is not None
    assert part.marks.tolist() == [len(rows[i]) - 1 for i in index]
    assert inputs.select(slice(1, None)).rows() == rows[1:]


@given(rows_of, rows_of)
def test_concat_is_addition_of_lists(first: list[list[int]], second: list[list[int]]) -> None:
    both = Inputs.concat([Inputs.of(first), Inputs.of(second)])
    assert both.rows() == first + second
    assert both.tokens == sum(map(len, first + second))


@given(rows_of)
def test_owner_and_places(rows: list[list[int]]) -> None:
    inputs = Inputs.of(rows)
    assert inputs.owner.tolist() == [i for i, row in enumerate(rows) for _ in row]
    assert inputs.places.tolist() == [k for row in rows for k in range(len(row))]
    assert inputs.costs.tolist() == [len(row) for row in rows]


@given(rows_of, st.data())
def test_keep_drops_tokens_and_keeps_their_positions(rows: list[list[int]], data: st.DataObject) -> None:
    inputs = Inputs.of(rows)
    chosen = [[True, *data.draw(st.lists(st.booleans(), min_size=len(row) - 1, max_size=len(row) - 1))] for row in rows]
    kept = inputs.keep(np.array([flag for row in chosen for flag in row]))
    wanted = [[x for x, flag in zip(row, flags, strict=True) if flag] for row, flags in zip(rows, chosen, strict=True)]
    assert kept.rows() == wanted
    assert kept.positions is not None
    places = [k for flags in chosen for k, flag in enumerate(flags) if flag]
    assert kept.positions.tolist() == places


def test_what_cannot_be_joined() -> None:
    plain, marked = Inputs.of([[1, 2]]), Inputs.of([[1, 2]], marks=[0])
    with pytest.raises(UserError, match="marked and unmarked inputs cannot be joined"):
        Inputs.concat([plain, marked])
    with pytest.raises(UserError, match="with and without positions"):
        Inputs.concat([plain, plain.replace(positions=torch.tensor([1, 0]))])
    with pytest.raises(UserError, match="nothing to concatenate"):
        Inputs.concat([])
    assert Inputs.concat([Inputs.of([]), marked]).rows() == [[1, 2]]  # an empty part has nothing to differ in


ENDS = [("a", "a."), ("a.", "a."), ("a?", "a?"), ('a"', 'a"'), ("", ""), ("a!", "a!.")]


@pytest.mark.parametrize(("text", "wanted"), ENDS)
def test_a_full_stop_where_there_is_no_end(text: str, wanted: str) -> None:
    assert ended(text) == wanted


@pytest.mark.parametrize(
    ("prompt", "prefix"), [("a ", True), ("a {}", True), ("{} b", False), ("{.}", False), ("", True), ("{}{}", False)]
)
def test_which_prompts_only_stand_in_front(prompt: str, prefix: bool) -> None:
    assert is_prefix(prompt) == prefix


def test_prompts_by_name_by_text_and_by_default() -> None:
    prompts = {"query": "who ", "plain": ""}
    assert resolve_prompt(None, prompts, "query") == "who "
    assert resolve_prompt(None, prompts, None) == ""
    assert resolve_prompt("", prompts, "query") == ""
    assert resolve_prompt("plain", prompts, "query") == ""
    assert resolve_prompt("search: ", prompts, None) == "search: "
    assert resolve_prompt("{}!", prompts, None) == "{}!"
    with pytest.raises(UserError, match="unknown prompt 'quer'; did you mean 'query'"):
        resolve_prompt("quer", prompts, None)
    with pytest.raises(UserError, match="the default prompt 'q' is no prompt"):
        resolve_prompt(None, prompts, "q")


@pytest.mark.parametrize("length", [9, 12, 40])
def test_a_template_is_kept_and_the_text_is_cut(length: int) -> None:
    words = TextTokenizer(tiny.tokenizer(), length)
    names = tiny.tokenizer().convert_ids_to_tokens
    inputs = words(["the dog is running in the park", "a", ""], "this sentence : {} means [MASK] .")
    for row, text in zip(inputs.rows(), (["the", "dog", "is", "running", "in", "the", "park"], ["a"], []), strict=True):
        room = length - 8
        front, back = ["[CLS]", "this", "sentence", ":"], ["means", "[MASK]", ".", "[SEP]"]
        assert names(row) == [*front, *text[:room], *back]
    assert inputs.marks is not None
    assert [row[mark] for row, mark in zip(inputs.rows(), inputs.marks, strict=True)] == [4] * 3


def test_a_template_without_room_for_a_text() -> None:
    with pytest.raises(UserError, match="leaves no room for text in 8 tokens; raise max_length"):
        TextTokenizer(tiny.tokenizer(), 8)(["a"], "this sentence : {} means [MASK] .")
    with pytest.raises(UserError, match="more than one {}"):
        TextTokenizer(tiny.tokenizer(), 20)(["a"], "{} is {}")


def test_bare_templates_are_made_once_for_each_length() -> None:
    words = TextTokenizer(tiny.tokenizer(), 20)
    inputs = words(["a dog", "the cat", "a", ""], "this sentence : {} means [MASK] .")
    bare, own = bare_templates(inputs)
    assert own.tolist() == [0, 0, 1, 2]
    empty = words([""], "this sentence : {} means [MASK] .").rows()[0]
    assert bare.rows() == [empty] * 3
    assert bare.marks is not None
    assert bare.marks.tolist() == [empty.index(4)] * 3
    assert bare.positions is not None
    behind = bare.positions.view(3, -1)[:, -1].tolist()
    assert behind == [inputs.costs[0] - 1, inputs.costs[2] - 1, inputs.costs[3] - 1]  # where they had been
    shifted, _ = bare_templates(inputs, shift=-2)
    assert shifted.positions is not None
    assert torch.equal(shifted.positions, bare.positions - 2)
    with pytest.raises(UserError, match="needs inputs made with a template"):
        bare_templates(words(["a"]))
