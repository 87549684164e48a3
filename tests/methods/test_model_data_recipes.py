"""Recipes on data that models wrote, chose or scored: published settings, regulators, clusters, rows of the commands.

The table is written from the collected reference (`../shared/reference/sentence-methods-2.md`, sections in the
comments), never from the recipes. None: it is not said there. Numbers for several processes are totals.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from embedkit.config.recipe_io import load_recipe, stage_recipes
from embedkit.data.builtin import sentences as builtin
from embedkit.errors import ModelError
from embedkit.formats import load, save
from embedkit.methods.common.parts import Frozen
from embedkit.methods.regularized import RegularizedCL
from embedkit.mining.output import training_rows
from embedkit.mining.settings import MiningSettings
from embedkit.training import setup, train
from tests.methods import test_published_settings as published
from tests.methods import toys
from tests.methods.test_published_settings import BERT, IN_TRAINING, KEPT, MLM, ROBERTA, ROBERTA_LARGE, TRAINER, row

Row = dict[str, Any]
UNKNOWN: Row = dict.fromkeys([*published.KEYS, *published.MADE])
PART_B: Row = {**UNKNOWN, "length": 32, "every": 125, "metric": "sts/stsb", "pooling": "cls", IN_TRAINING: "cls"}
BOTH = {"metric": "sts/avg", "evaluation.tasks": ["stsb", "sickr"]}

PUBLISHED: dict[str, Row] = {
    # 6: no head; the released models are pooled by the mean; length and optimiser are not said
    "claif": row(PART_B, 2e-5, 32, 3, BERT, warmup=0.1, length=None, pooling="mean", head=(), **{
        IN_TRAINING: "mean", "objective.name": "cosine-mse",
    }),
    "clhaif": row(TRAINER, 5e-5, 4 * 128, 3, head=None, seed=None, **{
        "objective.name": "clhaif",
    }),
    # 7: the head stays, masked words in the released script
    "syncse": row(TRAINER, 5e-5, 512, 3, ROBERTA, head=KEPT, every=25, **BOTH, **MLM),
    "syncse-roberta-large": row(TRAINER, 1e-5, 512, 3, ROBERTA_LARGE, head=KEPT, every=25, **BOTH, **MLM),
    # 10: nothing is known but the abstract
    "debcse": row(UNKNOWN, None, None, None, BERT),
    # 13: the released CLI lacks the teacher's temperature, 0.05 is RankCSE's; one list a step
    "ranking-generation": row(PART_B, 3e-6, 1, 1, every=25, **BOTH, **{
        "objective.name": "list-mle", "objective.lists": "members", "temperature": 0.05, "objective.omega": 0.5,
        "objective.teacher_temperature": 0.05, "guide.model.pooling": "cls",
    }),
    # 16: [CLS] without a head, 512 tokens; the batch is from memory there
    "scincl": row(UNKNOWN, 2e-5, 32, 2, "allenai/scibert_scivocab_uncased", length=512, pooling="cls", head=(), **{
        IN_TRAINING: "cls", "objective.name": "triplet", "objective.margin": 1.0,
    }),
    "regularized-cl": row(UNKNOWN, None, None, None),  # 14: abstract only
    # no section: the model card and the paper, from memory
    "gist": row(UNKNOWN, 5e-6, 16, 40, "BAAI/bge-small-en-v1.5", warmup=0.1, temperature=0.01, **{
        "objective.name": "gist", "objective.guide_margin": 0.0,
    }),
    "gpl": row(UNKNOWN, 2e-5, 32, None, "sentence-transformers/msmarco-distilbert-base-tas-b", **{
        "length": 350, "warmup": 1000, "objective.name": "margin-mse", "objective.similarity": "dot",
        "train.max_steps": 140_000,
    }),
}  # fmt: skip


@pytest.mark.parametrize("name", PUBLISHED)
def test_the_recipe_has_the_published_settings(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert {*published.KEYS, *published.MADE} <= set(PUBLISHED[name]), "what is not known is said"
    monkeypatch.setattr(published, "PUBLISHED", PUBLISHED)
    published.test_the_recipe_has_the_published_settings(name)


# ---------------------------------------------------------------------------------------------- regularized-cl


def info_nce(queries: list[list[float]], keys: list[list[float]], tau: float) -> float:
    """Mean of log sum - positive, with loops."""
    from tests.objectives.oracles.plain import cosine, lse, mean

    q, k = np.array(queries), np.array(keys)
    return mean(lse(cosine(a, b) / tau for b in k) - cosine(q[i], k[i]) / tau for i, a in enumerate(q))


def test_regulators_are_further_positives_of_both_texts() -> None:
    method = RegularizedCL(regulators=[None, None], weight=0.7, temperature=0.2)
    torch.manual_seed(0)
    outputs = {name: torch.randn(5, 3 * 4, dtype=torch.float64, requires_grad=True) for name in ("anchor", "positive")}
    batch = toys.batch(outputs, 5)
    embeddings = method.project(outputs, batch, torch.nn.ModuleDict())
    assert all(torch.equal(z, outputs[name][:, :4]) for name, z in embeddings.items())
    loss = method.terms(outputs, embeddings, batch, torch.nn.ModuleDict())["regulators"]
    expected = 0.0
    for z in outputs.values():
        own, first, second = z.detach().split(4, dim=1)
        expected += 0.7 * sum(info_nce(own.tolist(), other.tolist(), 0.2) for other in (first, second))
    assert float(loss.detach()) == pytest.approx(expected, rel=1e-9)
    loss.backward()
    assert all(float(z.grad[:, 4:].abs().max()) == 0.0 for z in outputs.values()), "regulators are targets"
    assert all(float(z.grad[:, :4].abs().min()) > 0.0 for z in outputs.values())


def test_a_regulator_stays_as_it_was_and_reads_anchors_and_positives_only() -> None:
    method, model = RegularizedCL(regulators=[None]), toys.encoder("bert", pooling="mean")
    parts = method.parts(model).eval()
    assert not list(parts.parameters()) and not parts.state_dict()
    inputs = model.prepare(toys.TEXTS)
    before = method.embed(model.eval(), parts, inputs, regulated=True)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
    after = method.embed(model, parts, inputs, regulated=True)
    width = model.training_dim
    assert torch.equal(after[:, width:], before[:, width:]) and not torch.allclose(after[:, :width], before[:, :width])
    assert method.embed(model, parts, inputs).shape[1] == width


def test_a_regulator_from_a_folder_must_read_the_same_tokens(tmp_path: Path) -> None:
    model = toys.encoder("bert", pooling="mean").float()
    save(model, tmp_path / "same")
    (part,) = RegularizedCL(regulators=[str(tmp_path / "same")]).parts(model)["regulators"]
    assert isinstance(part, Frozen) and not part.module.training
    train(load_recipe("quickstart", ["train.max_steps=1", f"train.output={tmp_path / 'run'}"], smoke=True))
    with pytest.raises(ModelError, match="another vocabulary"):
        RegularizedCL(regulators=[str(tmp_path / "run")]).parts(model)


# ---------------------------------------------------------------------------------------------- clusters, rows


def test_every_batch_of_mcl_comes_from_one_cluster() -> None:
    """The sampler reads the column that `embedkit label` writes; here the shape stands for it."""
    full, recipe = (stage_recipes(load_recipe("mcl", smoke=smoke))[1] for smoke in (False, True))
    assert full.data.sampler == "by-label" and full.data.per_label == full.train.batch_size
    clusters = [entry["label"] for entry, _ in zip(builtin.rows("shapes-train"), range(128), strict=False)]
    rows = setup.open_rows(recipe, setup.build_method(recipe))
    seen = [{clusters[place] for place in batch.ids} for batch in rows.batches(epoch=0)]
    assert len(seen) >= 4 and all(len(labels) == 1 for labels in seen)
    assert len(set().union(*seen)) > 1


TEXTS = [f"text number {n} of the list" for n in range(12)]


def mined(**form: Any) -> list[Row]:
    """Rows as `embedkit mine` writes them."""
    settings = MiningSettings(num_negatives=2, **form)
    return [one for n in range(8) for one in training_rows(TEXTS[n], f"positive {n}", [f"a {n}", f"b {n}"],
                                                           [0.9, 0.5, 0.25], settings)]  # fmt: skip


def ranked() -> list[Row]:
    """Rows as `embedkit generate --template ranking` writes them: a falling score for each text."""
    return [{"anchor": TEXTS[n], "positive": f"first {n}", "negatives": [f"second {n}", f"third {n}"],
             "scores": [1.0, 0.666667, 0.333333]} for n in range(8)]  # fmt: skip


def scored() -> list[Row]:
    """Rows as `embedkit score` writes them."""
    return [{"anchor": TEXTS[n], "positive": f"pair {n}", "score": n / 8} for n in range(8)]


@pytest.mark.parametrize(
    ("recipe", "rows", "more"),
    [
        ("scincl", mined(), []),
        ("scincl", mined(one_per_row=True), []),
        ("debcse", mined(as_list=True), []),
        ("gist", mined(), []),
        ("gpl", mined(as_list=True, output_scores=True), []),
        ("gpl", mined(one_per_row=True, output_scores=True), []),
        ("clhaif", mined(output_scores=True), []),
        ("clhaif", scored(), []),
        ("claif", scored(), []),
        ("ranking-generation", ranked(), []),
        ("pairs", ranked(), ["objective=list-mle"]),
        ("pairs", mined(as_list=True, output_scores=True), ["objective=distill-kl"]),
    ],
)
def test_rows_of_the_commands_train_as_they_are(recipe: str, rows: list[Row], more: list[str], tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(one) + "\n" for one in rows), encoding="utf-8")
    config = load_recipe(recipe, [f"data.train=[{{path: '{path}'}}]", "train.max_steps=1", "train.batch_size=8", *more,
                                  f"train.output={tmp_path / 'run'}"], smoke=True)  # fmt: skip
    result = train(config)
    assert result.steps == 1 and result.loss > 0


def test_what_a_recipe_saves_loads_without_what_it_trained_beside(tmp_path: Path) -> None:
    train(load_recipe("regularized-cl", [f"train.output={tmp_path / 'run'}", "train.max_steps=1"], smoke=True))
    assert load(tmp_path / "run").encode(["a cat"]).shape == (1, 32)
