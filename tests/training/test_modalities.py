"""Runs of several named modalities: rows that lack some, what is told before training, towers after it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import embedkit
from embedkit.errors import DataError, EmbedkitError, RecipeError, UserError
from embedkit.models import MultiEncoder
from embedkit.models.inputs.towers import Named
from tests.training import runs

FEATURE = {"kind": "feature", "feature": {"form": "mlp", "scaling": "standard"}}
NAMES = ("image", "sound", "word")


def recipe(source: dict[str, Any], **more: Any) -> dict[str, Any]:
    """A run over three modalities, two of vectors and one of texts."""
    word = {"kind": "static", "tokenizer": "builtin", "dim": 12}
    return {
        "name": "m", "method": "modalities", "data": {"train": [source]},
        "model": {"kind": "multi", "dim": 8, "modalities": {"image": FEATURE, "sound": FEATURE, "word": word}},
        "train": {"batch_size": 16, "epochs": 20, "lr": 0.02, "holdout": 0.0}, **more,
    }  # fmt: skip


def vectors(count: int = 64) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    hidden = rng.standard_normal((count, 5))
    return {"image": hidden @ rng.standard_normal((5, 9)), "sound": hidden @ rng.standard_normal((5, 7))}


def write_rows(path: Path, count: int = 64) -> None:
    """Every third row lacks the sound, every fifth the image; the word is the row's number."""
    arrays = {name: x.round(4).tolist() for name, x in vectors(count).items()}
    with path.open("w", encoding="utf-8") as file:
        for i in range(count):
            row = {"img": None if i % 5 == 0 else arrays["image"][i], "wav": None if i % 3 == 0 else arrays["sound"][i]}
            file.write(json.dumps({**row, "text": f"number {i}"}) + "\n")


COLUMNS = {"img": "image", "wav": "sound", "text": "word"}


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_a_run_on_rows_that_lack_some_ends_in_towers_that_find_each_other(place: Path) -> None:
    write_rows(Path("rows.jsonl"))
    said = runs.run(place / "run", recipe({"path": "rows.jsonl", "columns": COLUMNS}))
    model = embedkit.load("run/model", device="cpu")
    assert isinstance(model, MultiEncoder)
    assert model.names == list(NAMES)
    assert said.losses[-1] < said.losses[0]
    given = vectors()
    a, b = (model.encode(given[name].astype("float32"), tower=name) for name in ("image", "sound"))
    assert a.shape == b.shape == (64, 8)
    nearest = (a @ b.T).argmax(axis=1)
    assert (nearest == np.arange(64)).mean() > 0.3  # chance is 0.016
    assert np.allclose(model.encode(["number 3"]), model.encode(["number 3"], tower="word"))
    both = model.encode([Named("word", "number 3"), Named("sound", given["sound"][0])])
    assert np.allclose(both[1], b[0], atol=1e-6)
    alone = embedkit.load(str(model.tower("sound").save("sound")), device="cpu")
    assert np.allclose(alone.encode(given["sound"].astype("float32")), b, atol=1e-6)


def test_files_by_id_may_lack_rows(place: Path) -> None:
    given = vectors()
    names = np.array([f"n{i}" for i in range(64)])
    Path("rows.csv").write_text("key,text\n" + "".join(f"n{i},number {i}\n" for i in range(64)), encoding="utf-8")
    np.savez("image.npz", id=names[:40], vector=given["image"][:40])
    np.savez("sound.npz", id=names[20:], vector=given["sound"][20:])
    beside = [
        {"path": f"{name}.npz", "on": "key", "names": {"vector": name}, "optional": True} for name in ("image", "sound")
    ]
    source = {"path": "rows.csv", "beside": beside, "columns": {"image": "image", "sound": "sound", "text": "word"}}
    said = runs.run(place / "run", recipe(source, train={"batch_size": 16, "max_steps": 3, "holdout": 0.0}))
    assert said.steps == 3
    with pytest.raises(DataError, match=r"key 'n40' is no id of .*optional: true"):
        runs.run(place / "other", recipe({**source, "beside": [{**beside[0], "optional": False}, beside[1]]}))


@pytest.mark.parametrize(
    ("change", "line"),
    [
        ({"columns": {"img": "image", "text": "word"}}, "no source has a column for modality 'sound'"),
        ({"columns": {**COLUMNS, "none": "sound", "wav": None}}, "no row has the modality 'sound'"),
        ({"columns": {**COLUMNS, "wav": "sund"}}, "'sund' is not a role.*did you mean 'sound'"),
        ({"columns": {**COLUMNS, "text": "sound", "wav": "word"}}, "(?s)word is a vector|sound is a text"),
        ({"columns": {**COLUMNS, "short": "sound", "wav": None}}, "rows.jsonl:2 column 'short'.*2 numbers, those"),
        ({"kinds": {"sond": "vector"}, "columns": COLUMNS}, "role 'sond' has no choice of kind"),
    ],
)
def test_what_the_rows_lack_is_told_before_the_model_is_made(place: Path, change: dict[str, Any], line: str) -> None:
    rows = [{"img": [1.0, 2.0], "wav": [0.5, i], "text": f"word {i}", "none": None, "short": [0.5, 1.0, i][: 3 - i % 2]}
            for i in range(32)]  # fmt: skip
    Path("rows.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    columns = {column: role for column, role in change.get("columns", {}).items() if role is not None}
    with pytest.raises(EmbedkitError, match=line):
        runs.run(place / "run", recipe({"path": "rows.jsonl", **change, "columns": columns}))


def test_a_row_without_any_modality_is_named(place: Path) -> None:
    Path("rows.jsonl").write_text('{"a": [1, 2], "b": "x"}\n{"a": null, "b": " "}\n', encoding="utf-8")
    source = {"path": "rows.jsonl", "columns": {"a": "image", "b": "word"}}
    given = recipe(source, model={"kind": "multi", "dim": 4, "modalities": {
        "image": FEATURE, "word": {"kind": "static", "tokenizer": "builtin", "dim": 4}}})  # fmt: skip
    with pytest.raises(DataError, match=r"rows\.jsonl:2: the row has nothing in 'a', 'b'"):
        runs.run(place / "run", given)


def test_settings_that_cannot_work_are_refused(place: Path) -> None:
    write_rows(Path("rows.jsonl"))
    source = {"path": "rows.jsonl", "columns": COLUMNS}
    with pytest.raises(RecipeError, match="there is no modality 'imgae'; did you mean 'image'"):
        runs.run(place / "a", recipe(source, method={"name": "modalities", "pairs": "imgae"}))
    with pytest.raises(RecipeError, match="the model has no named towers"):
        runs.run(place / "b", recipe(source, model={"kind": "static", "tokenizer": "builtin", "dim": 4}))
    model = MultiEncoder({"a": embedkit.models.FeatureEncoder(3), "b": embedkit.models.FeatureEncoder(3)})
    with pytest.raises(DataError, match="the towers a, b read such inputs"):
        model.encode(np.ones((2, 3), "float32"))
    with pytest.raises(UserError, match="no tower 'c'"):
        model.encode(np.ones((2, 3), "float32"), tower="c")
