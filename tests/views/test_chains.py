"""Views by name: settings, chains, determinism, files, a masked language model."""

from __future__ import annotations

import contextlib
import inspect
import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from embedkit.errors import DataError, RecipeError, UserError
from embedkit.methods.base import View
from embedkit.views import Chain, views
from embedkit.views.lookup import MaskedLM, whole_words

TEXT = "the old dog sleeps near the small red house by the river"

# One entry a view at least: settings under which it changes TEXT.
EDITS: dict[str, dict[str, Any]] = {
    "word-deletion": {"rate": 0.5},
    "span-deletion": {"spans": 3, "share": 0.1},
    "reordering": {"pairs": 2, "share": 0.1},
    "word-shuffle": {},
    "word-repetition": {},
    "random-span": {"least": 2, "most": 6},
    "phrases": {"parts": 3},
    "substitution": {"table": "TABLE", "rate": 0.8},
    "back-translation": {"path": "BACK"},
    "stop-words": {"rate": 0.5},
    "one-of": {"steps": [{"name": "word-deletion", "rate": 0.5, "weight": 2}, "word-shuffle"]},
}
OTHERS: dict[str, dict[str, Any]] = {
    "template": {"text": 'This sentence : "{}" means [MASK].'},
    "dropout": {"rate": 0.3},
    "token-shuffle": {},
    "token-cutoff": {"rate": 0.3},
    "feature-cutoff": {},
    "element-cutoff": {},
    "noise": {"deviation": 0.5},
    "adversarial": {},
}
NUMBERS = {name for name in set(views) - {*EDITS, *OTHERS} if (step := views[name]()).change or step.mix}
"""Views of vectors and sequences: tests/views/test_series.py."""
for added in set(views) - {*EDITS, *OTHERS} - NUMBERS:  # a further view is tested with its defaults
    (EDITS if views[added]().edit is not None else OTHERS)[added] = {}


@pytest.fixture
def files(tmp_path: Path) -> dict[str, str]:
    """A table of substitutes, and back-translations of TEXT."""
    table = tmp_path / "table.tsv"
    table.write_text("word\tsubstitute\ndog\thound\ndog\tpuppy\nsmall\ttiny\n")
    back = tmp_path / "back.jsonl"
    back.write_text("".join(json.dumps({"text": TEXT, "translation": t}) + "\n" for t in ("one", "two", "three")))
    return {"TABLE": str(table), "BACK": str(back)}


def entry(name: str, files: dict[str, str]) -> dict[str, Any]:
    settings = {key: files.get(value, value) if isinstance(value, str) else value
                for key, value in {**EDITS, **OTHERS}.get(name, {}).items()}  # fmt: skip
    return {"name": name, **settings}


def random(seed: int) -> np.random.Generator:
    return np.random.Generator(np.random.Philox(key=[seed, 0]))


@pytest.mark.parametrize("name", EDITS)
def test_edits_change_the_text_and_repeat(name: str, files: dict[str, str]) -> None:
    chain = Chain.of(entry(name, files))
    found = [chain.texts(TEXT, random(seed)) for seed in range(12)]
    assert [chain.texts(TEXT, random(seed)) for seed in range(12)] == found
    assert any(parts != [TEXT] for parts in found)
    assert len({tuple(parts) for parts in found}) > 1
    assert all(part.strip() for parts in found for part in parts)
    assert chain.forward == {}
    assert chain.prompt is None


@pytest.mark.parametrize("name", ["word-deletion", "span-deletion", "reordering", "word-shuffle", "word-repetition",
                                  "random-span", "phrases"])  # fmt: skip
@pytest.mark.parametrize("text", ["", "   ", "word", "a b"])
def test_short_texts_stay_texts(name: str, text: str) -> None:
    for seed in range(8):
        found = Chain.of(name).texts(text, random(seed))
        assert found
        assert all(part.strip() or part == text for part in found)


@pytest.mark.parametrize("name", OTHERS)
def test_the_others_leave_the_text(name: str, files: dict[str, str]) -> None:
    chain = Chain.of(entry(name, files))
    assert chain.texts(TEXT, random(0)) == [TEXT]
    assert (chain.prompt is not None) != bool(chain.forward)


def test_a_chain_applies_its_steps_in_order() -> None:
    config = ["word-repetition", {"name": "word-deletion", "rate": 0.3}, {"name": "template", "text": "say {}."},
              {"name": "dropout", "rate": 0.2}, "token-shuffle"]  # fmt: skip
    chain = Chain.of(config)
    view = View([TEXT, "other words here"], [0, 1], settings={"packing": "padded"}, guided=False)
    made = chain.apply(view, [random(1), random(2)])
    generator = random(1)
    first = views["word-repetition"]().edit(TEXT, generator)
    assert made.inputs[0] == views["word-deletion"](0.3).edit(first, generator)
    assert made.prompt == "say {}."
    assert made.settings == {"packing": "padded", "dropout": 0.2, "shuffle": True}
    assert made.owner == [0, 1]
    assert not made.guided


def test_parts_of_a_text_belong_to_its_row() -> None:
    chain = Chain.of([{"name": "phrases", "parts": 2, "even": True}, {"name": "word-deletion", "rate": 0.0}])
    made = chain.apply(View(["a b c d", "e", "f g"], [0, 1, 2]), [random(i) for i in range(3)])
    assert made.inputs == ["a b", "c d", "e", "f", "g"]
    assert made.owner == [0, 0, 1, 2, 2]


BAD: list[tuple[Any, str]] = [
    ("word-deleton", "word-deletion"), ({"name": "word-deletion", "rte": 0.1}, "rate"), ({"rate": 0.1}, "name"),
    ({"name": "word-deletion", "rate": 2}, "at most 1"), ({"name": "word-deletion", "rate": "x"}, "rate"),
    ({"name": "span-deletion", "spans": 0}, "spans"), ({"name": "reordering", "share": -1}, "share"),
    ({"name": "word-shuffle", "window": 0}, "window"), ({"name": "random-span", "least": 9, "most": 3}, "most"),
    ({"name": "phrases", "parts": 0}, "parts"), ({"name": "template", "text": "no slot"}, "once"),
    ({"name": "dropout", "rate": 1}, "rate"), ({"name": "token-cutoff", "rate": True}, "rate"),
    ({"name": "substitution"}, "model or table"), ({"name": "substitution", "model": "a", "table": "b"}, "model or"),
    ({"name": "back-translation", "path": "x", "missing": "skip"}, "keep"),
    ([{"name": "dropout", "rate": 0.1}, {"name": "dropout", "rate": 0.2}], "same thing"),
    ([{"name": "template", "text": "a {}"}, {"name": "template", "text": "b {}"}], "same thing"),
    ({"name": "word-deletion", "marker": 3}, r"^view\.marker: marker is 3; it must be text"),
    (["token-shuffle", {"name": "noise", "deviation": -1}], r"^view\.1\.deviation: deviation is -1"),
    ("dropout", r"^view\.rate: rate is missing; give it a value"), (3, "an entry has no name"),
    ({"name": "one-of", "steps": []}, "nothing to draw from"), ({"name": "one-of", "steps": ["dropuot"]}, "dropout"),
    ({"name": "one-of", "steps": [{"name": "dropout", "rate": 0.1}]}, "more than edit words"),
    ({"name": "one-of", "steps": [{"name": "word-shuffle", "weight": 0}]}, "weight is 0"),
    ([3], r"^view\.0: an entry has no name"), (None, "an entry has no name"), ({"name": 3}, "an entry has no name"),
]  # fmt: skip


@pytest.mark.parametrize(("config", "told"), BAD, ids=str)
def test_bad_entries_are_refused_with_a_remedy(config: Any, told: str) -> None:
    with pytest.raises(UserError, match=told) as caught:
        Chain.of(config)
    assert caught.value.remedy


@pytest.mark.parametrize(
    ("name", "key"), [(n, k) for n, make in views.items() for k in inspect.signature(make).parameters]
)
def test_a_wrong_type_is_told_with_the_key(name: str, key: str, files: dict[str, str]) -> None:
    for wrong in ([3], {"x": [3]}, 3.5 + 2j):
        with pytest.raises(RecipeError, match=rf"^method\.positive\.0\.{key}(\.0)?: {key}(\.0)? is"):
            Chain.of([entry(name, files) | {key: wrong}], "method.positive")
    for value in (3, 3.5, -1, "x", True, None, float("nan")):
        with contextlib.suppress(UserError):
            Chain.of([entry(name, files) | {key: value}])


def test_back_translations_are_drawn_evenly(files: dict[str, str]) -> None:
    chain = Chain.of({"name": "back-translation", "path": files["BACK"]})
    seen = Counter(chain.texts("  " + TEXT.replace(" ", "  "), random(seed))[0] for seed in range(300))
    assert set(seen) == {"one", "two", "three"}
    assert all(abs(n / 300 - 1 / 3) < 0.1 for n in seen.values())
    with pytest.raises(DataError, match="missing: keep"):
        chain.texts("unknown", random(0))
    kept = Chain.of({"name": "back-translation", "path": files["BACK"], "missing": "keep"})
    assert kept.texts("unknown", random(0)) == ["unknown"]


def test_a_missing_file_is_told_when_the_chain_is_made(tmp_path: Path) -> None:
    with pytest.raises(DataError):
        Chain.of({"name": "back-translation", "path": str(tmp_path / "none.tsv")})
    (tmp_path / "t.tsv").write_text("text\tother\na\tb\n")
    with pytest.raises(DataError, match="translation"):
        Chain.of({"name": "back-translation", "path": str(tmp_path / "t.tsv")})


@pytest.fixture(scope="module")
def language_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny random masked language model on disk."""
    import torch
    from transformers import BertConfig, BertForMaskedLM

    from embedkit.data.builtin.sentences import tokenizer

    folder = tmp_path_factory.mktemp("mlm")
    words = tokenizer()
    torch.manual_seed(0)
    config = BertConfig(vocab_size=len(words) + 5, hidden_size=16, num_hidden_layers=1, num_attention_heads=2,
                        intermediate_size=16, max_position_embeddings=32)  # fmt: skip
    BertForMaskedLM(config).save_pretrained(folder)
    words.save_pretrained(folder)
    return folder


def test_a_masked_language_model_fills_the_places(language_model: Path) -> None:
    model = MaskedLM(str(language_model), top=4)
    items = ["the", "small", "dog", "sleeps"]
    found = model(items, [1, 3])
    assert found == model(items, [1, 3])
    assert [len(words) for words in found] == [4, 4]
    assert all(word.isalpha() and word != "small" for word in found[0])
    assert model(items * 20, [1, 70])[1] == []  # beyond what the model reads
    assert model(["the", found[0][0], "dog", "sleeps"], [1])[0] != found[0][:4]  # not the word itself


def test_candidates_are_those_that_the_model_scores_highest(language_model: Path) -> None:
    import torch
    from transformers import AutoModelForMaskedLM

    from embedkit.data.builtin.sentences import tokenizer

    words = tokenizer()
    reader = AutoModelForMaskedLM.from_pretrained(language_model).eval()
    ids = torch.tensor([words("the [MASK] dog")["input_ids"]])
    with torch.no_grad():
        scores = reader(input_ids=ids).logits[0, 2].tolist()
    ranked = sorted((w for w, i in words.get_vocab().items() if w.isalpha() and len(w) > 0),
                    key=lambda w: -scores[words.get_vocab()[w]])  # fmt: skip
    ranked = [w for w in ranked if w != "small"]
    assert MaskedLM(str(language_model), top=3)(["the", "small", "dog"], [1]) == [ranked[:3]]
    chain = Chain.of({"name": "substitution", "model": str(language_model), "rate": 1.0, "top": 2})
    assert len(chain.texts("the small dog", random(0))[0].split()) == 3


def test_whole_words_are_words() -> None:
    from embedkit.data.builtin.sentences import tokenizer

    words = tokenizer()
    chosen = whole_words(words)
    table = words.get_vocab()
    assert chosen[table["dog"]]
    assert not any(chosen[table[piece]] for piece in words.all_special_tokens)
    assert not any(chosen[i] for piece, i in table.items() if piece.startswith("##") or not piece.isalpha())


PAGE = Path(__file__).parents[2] / "docs" / "views.md"


def test_the_page_lists_every_view_with_its_settings() -> None:
    rows = {cells[1].strip(): cells[3] for cells in (line.split("|") for line in PAGE.read_text().splitlines())
            if len(cells) == 6}  # fmt: skip
    for name, make in views.items():
        assert name in rows
        assert all(f"`{key}`" in rows[name] for key in inspect.signature(make).parameters), name
