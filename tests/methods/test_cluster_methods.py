"""ClusterNS, WhitenedCSE, UNSEE, CompCSE, CLEAR, CSD and CWM: what is theirs alone, against restatements in fp64."""

from __future__ import annotations

from collections import Counter
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from embedkit.config.recipe import GuideConfig
from embedkit.config.recipe_io import load_recipe
from embedkit.errors import ModelError, RecipeError
from embedkit.methods.clear import CLEAR
from embedkit.methods.clusterns import ClusterNS
from embedkit.methods.common.whitening import ShuffledGroupWhitening, _InverseRoot
from embedkit.methods.compcse import CompCSE
from embedkit.methods.csd import CSD
from embedkit.methods.parallel_lines import ParallelLines, drawn_words
from embedkit.methods.unsee import UNSEE
from embedkit.methods.whitenedcse import WhitenedCSE
from embedkit.objectives import build
from embedkit.objectives.base import ObjectiveBatch
from embedkit.training import setup
from embedkit.training.loop.guide import Guide
from tests.training import common, runs

ANCHORS = [{"anchor": text} for text in common.texts(6)]


def vectors(step: Any, texts: list[str]) -> np.ndarray:
    """The step's model's vectors, one text at a time."""
    return torch.cat([step.bundle.model(step.bundle.model.prepare([text])) for text in texts]).detach().numpy()


def unit(z: np.ndarray) -> np.ndarray:
    return z / np.linalg.norm(z, axis=1, keepdims=True)


def infonce(a: np.ndarray, b: np.ndarray, tau: float = 0.05) -> float:
    logits = unit(a) @ unit(b).T / tau
    return float(np.mean(np.logaddexp.reduce(logits, axis=1) - np.diag(logits)))


def tanh_head(step: Any, z: np.ndarray) -> np.ndarray:
    layer = step.bundle.parts["head"][0]
    return np.tanh(z @ layer.weight.detach().numpy().T + layer.bias.detach().numpy())


def loss_of(step: Any, rows: Any = ANCHORS) -> float:
    return float(step.gradients(common.step_batch(step, rows)).loss)


def test_clusterns_takes_its_fidelity() -> None:
    assert [ClusterNS(fidelity).objective["update"] for fidelity in ("code", "paper")] == ["sum", "mean"]


def test_a_run_says_when_clusters_begin_and_when_they_never_did(tmp_path: Path, capsys: Any) -> None:
    """Start and remark; the centroids are in the checkpoint."""
    given = {"name": "start", "seed": 1, "model": common.model_config(0.1).model_dump(exclude_none=True),
             "data": {"train": [{"path": "builtin:sentences", "limit": 64}]}, "method": "clusterns",
             "objective": {"name": "clusterns", "clusters": 3, "start_cosine": 1.0},
             "train": {"max_steps": 3, "batch_size": 8, "log_every": 1, "lr": 1e-3}}  # fmt: skip
    runs.run(tmp_path / "on", given)
    assert "no clusters were made" not in capsys.readouterr().err
    state = runs.checkpoint(tmp_path / "on", 3, "weights")
    assert int(state["objective.bank.started"]) == 0
    assert state["objective.bank.centroids"].shape == (3, 32)
    assert bool(state["objective.bank.centroids"].any())
    never = {**given, "objective": {"name": "clusterns", "clusters": 3, "start_cosine": -1.0}}
    runs.run(tmp_path / "off", never)
    assert int(runs.checkpoint(tmp_path / "off", 3, "weights")["objective.bank.started"]) == -1
    remark = build(never["objective"], dim=32).bank.remark()
    assert remark is not None
    assert "start_cosine" in remark


def test_a_batch_that_cannot_start_clusters_is_refused() -> None:
    recipe = load_recipe("clusterns", ["train.batch_size=8", "objective.clusters=9"], smoke=True)
    rows = type("Rows", (), {"roles": {"anchor"}, "summary": staticmethod(dict)})()
    with pytest.raises(RecipeError, match="a batch of 8 rows cannot start 9 clusters"):
        setup.check_batch(recipe, setup.build_objective(recipe, setup.build_method(recipe)), rows)


def test_a_batch_of_a_single_set_is_refused() -> None:
    """Two sets of four rows are the least that has something to tell apart."""
    rows = type("Rows", (), {"roles": {"anchor"}, "summary": staticmethod(dict)})()
    for size, refused in ((7, True), (8, False)):
        recipe = load_recipe("topic-moco", [f"train.batch_size={size}"], smoke=True)
        objective = setup.build_objective(recipe, setup.build_method(recipe))
        with pytest.raises(RecipeError, match="a batch of 7 .*; take 8 at least") if refused else nullcontext():
            setup.check_batch(recipe, objective, rows)


def test_positives_by_cluster_need_clusters() -> None:
    with pytest.raises(RecipeError, match="bank 'centroids'"):
        build({"name": "table", "target": {"name": "same", "by": "cluster"}})


@pytest.mark.parametrize("shuffled", [False, True])
def test_whitening_is_zca_of_each_group(shuffled: bool) -> None:
    generator = np.random.default_rng(0)
    z = generator.normal(size=(40, 12)) @ generator.normal(size=(12, 12)) + 3
    order = torch.randperm(12, generator=torch.Generator().manual_seed(5)).numpy() if shuffled else np.arange(12)
    expected = np.empty_like(z)
    for group in order.reshape(4, 3):
        x = z[:, group] - z[:, group].mean(0)
        values, basis = np.linalg.eigh(x.T @ x / 40 + 1e-5 * np.eye(3))
        expected[:, group] = x @ (basis * values**-0.5) @ basis.T
    draw = torch.Generator().manual_seed(5) if shuffled else None
    found = ShuffledGroupWhitening(12, 4)(torch.from_numpy(z), draw).numpy()
    np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-11)


def test_the_inverse_root_has_a_gradient_where_eigenvalues_are_equal() -> None:
    draw = torch.randn(2, 3, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    apart = draw @ draw.transpose(1, 2) + torch.eye(3)

    def root(x: torch.Tensor) -> torch.Tensor:
        return _InverseRoot.apply((x + x.transpose(-1, -2)) / 2)

    assert torch.autograd.gradcheck(root, apart.requires_grad_())
    equal = (2 * torch.eye(3, dtype=torch.float64)).requires_grad_()
    root(equal).diagonal().sum().backward()
    torch.testing.assert_close(equal.grad, -0.5 * 2**-1.5 * torch.eye(3, dtype=torch.float64))


@pytest.mark.parametrize("by", ["view", "sentence"])
def test_whitenedcse_adds_the_losses_of_its_positives(by: Any) -> None:
    step = common.make_step("multi-positive", method=WhitenedCSE(groups=16, by=by))
    assert step.method.views(ANCHORS, np.random.default_rng).keys() == {"anchor", "positive", "view3"}
    z = vectors(step, [row["anchor"] for row in ANCHORS])
    batch = common.step_batch(step, ANCHORS)
    known = ObjectiveBatch.of({"anchor": torch.eye(6)}, step=batch.number, seed=batch.seed)
    every = np.stack([z, z, z]) if by == "view" else np.stack([z, z, z], axis=1)
    flat = torch.from_numpy(every.reshape(18, -1))
    whitening = ShuffledGroupWhitening(32, 16)
    white = [whitening(flat[6 * k : 6 * k + 6], known.generator("whitening", k)).numpy() for k in range(3)]
    heads = tanh_head(step, np.concatenate(white))
    first, second, third = heads.reshape(3, 6, -1) if by == "view" else heads.reshape(6, 3, -1).transpose(1, 0, 2)
    expected = infonce(first, second) + infonce(first, third)
    assert float(step.gradients(batch).loss) == pytest.approx(expected, rel=1e-7)


def test_groups_that_do_not_divide_the_vectors_are_refused() -> None:
    with pytest.raises(ModelError, match="cannot be cut into 5 equal groups"):
        ShuffledGroupWhitening(32, 5)


def test_unsee_predicts_the_guides_vectors_of_the_other_view() -> None:
    step = common.make_step({"name": "byol", "hidden": 0}, method=UNSEE(blocks=2, expansion=3))
    step.bundle.guide = Guide(GuideConfig(ema=0.9), step.bundle.model)
    z = vectors(step, [row["anchor"] for row in ANCHORS])
    x = z
    for layer in step.bundle.parts["predictor"]:
        if isinstance(layer, torch.nn.Linear):
            x = x @ layer.weight.detach().numpy().T + layer.bias.detach().numpy()
        elif isinstance(layer, torch.nn.ReLU):
            x = np.maximum(x, 0)
        else:
            x = (x - x.mean(0)) / np.sqrt(x.var(0) + 1e-5)
    expected = 2 * np.mean(2 - 2 * (unit(x) * unit(z)).sum(1))
    assert loss_of(step) == pytest.approx(expected, rel=1e-7)


def test_a_guide_beside_own_keys_is_refused() -> None:
    from embedkit.methods.common.usage import usage_of

    for name in ("barlow-twins", "vicreg", "corinfomax"):
        with pytest.raises(RecipeError, match="nothing reads the guide"):
            usage_of(UNSEE(), {"name": name}, frozenset({"anchor"}), guide=True)
        assert usage_of(UNSEE(), {"name": name, "keys": "guide"}, frozenset({"anchor"}), guide=True).notes == ()


@pytest.mark.parametrize("composition", ["mean", "halves"])
def test_compcse_composes_before_the_head(composition: Any) -> None:
    rows = [{"anchor": f"{a} and {b}", "positive": f"{a} | {b}"}
            for a, b in zip(common.texts(5, 1), common.texts(5, 2), strict=True)]  # fmt: skip
    rows[2]["positive"] = rows[2]["anchor"]  # a single part
    step = common.make_step("infonce", method=CompCSE(composition, prefix=10, separator="|"))
    pieces = [row["positive"].split(" | ") for row in rows]
    parts = [vectors(step, texts) for texts in pieces]
    if composition == "mean":
        whole = np.stack([z.mean(0) for z in parts])
    else:
        whole = np.stack([np.concatenate([z[0][:16], z[-1][16:]]) for z in parts])
    anchor = tanh_head(step, vectors(step, [row["anchor"] for row in rows]))[:, :10]
    assert loss_of(step, rows) == pytest.approx(infonce(anchor, tanh_head(step, whole)[:, :10]), rel=1e-7)


def test_compcse_cuts_where_there_is_no_partition() -> None:
    method, text = CompCSE(least=2), "one two three four five six"
    places = Counter()
    for seed in range(60):
        first, second = method.cut(text, None, np.random.default_rng(seed))
        assert f"{first} {second}" == text
        places[len(first.split())] += 1
    assert set(places) == {2, 3, 4}
    assert method.cut("one two three", None, np.random.default_rng(0)) == ["one two three"]


def test_clear_marks_deleted_words_with_one_new_token() -> None:
    method = CLEAR(first="word-deletion", second="span-deletion")
    step = common.make_step("ntxent", method=method)
    model = step.bundle.model
    method.adapt(model)
    assert len(model.tokenizer("[DEL]", add_special_tokens=False)["input_ids"]) == 1
    text = " ".join(common.WORDS * 40)  # 800 words
    views = method.views([{"anchor": text}], np.random.default_rng)
    words = views["anchor"].inputs[0].split()
    assert "[DEL] [DEL]" not in " ".join(words)
    assert 0.25 < sum(word != "[DEL]" for word in words) / 800 < 0.35
    assert sum(word != "[DEL]" for word in views["positive"].inputs[0].split()) == 800 - 5 * 40


def test_clear_wants_a_table_for_synonyms() -> None:
    with pytest.raises(RecipeError, match="belong together"):
        CLEAR(first="substitution")
    with pytest.raises(RecipeError, match="belong together"):
        CLEAR(synonyms="table.tsv")


def test_csd_learns_new_vectors_against_old_ones() -> None:
    z = torch.randn(6, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    label = torch.tensor([0, 0, 1, 1, 2, 2])
    objective = build(CSD("code").objective["terms"][0])
    teacher = torch.randn(6, 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64)

    def loss(student: torch.Tensor, guide: torch.Tensor) -> float:
        views = {"anchor": student}
        return float(objective(views, ObjectiveBatch.of(views, label=label, guide={"anchor": guide})).loss)

    logits = (unit(z.numpy()) @ np.concatenate([unit(z.numpy()), unit(teacher.numpy())]).T) / 0.07
    rows = []
    for i in range(6):
        keep = [j for j in range(12) if j != i]
        total = np.logaddexp.reduce(logits[i, keep])
        rows.append(np.mean([total - logits[i, j] for j in keep if label[j % 6] == label[i]]))
    assert loss(z, teacher) == pytest.approx(float(np.mean(rows)), rel=1e-9)


def test_parallel_lines_draws_near_words_and_common_negatives(tmp_path: Path) -> None:
    path = tmp_path / "sentences.txt"
    path.write_text("rare one two three four\n" + "one two three four five\n" * 9 + "one one one\n")
    words, chances = drawn_words(str(path), 2)
    counts = {"one": 13, "two": 10, "three": 10, "four": 10, "five": 9}
    weights = np.array([counts[word] ** 0.75 for word in words])
    np.testing.assert_allclose(np.diff(chances, prepend=0), weights / weights.sum())
    assert "rare" not in words
    method = ParallelLines(str(path), window=2, negatives=3, t=0.99, least=2)
    order = ["one", "two", "three", "four", "five"]
    reached = set()
    for seed in range(200):
        views = method.views([{"anchor": " ".join(order)}], lambda i, s=seed: np.random.default_rng([s, i]))
        distance = abs(order.index(views["anchor"].inputs[0]) - order.index(views["positive"].inputs[0]))
        reached.add(distance)
        assert views["negatives"].owner == [0, 0, 0]
        assert set(views["negatives"].inputs) <= set(words)
    assert reached == {1, 2}


def test_parallel_lines_starts_at_length_one_and_wants_a_static_model() -> None:
    from embedkit.config.recipe import ModelConfig
    from embedkit.factory import build as build_model

    model = build_model(ModelConfig(kind="static", tokenizer="builtin", dim=8), 0)
    ParallelLines("builtin:sentences").adapt(model)
    torch.testing.assert_close(model.embedding.weight.norm(dim=1), torch.ones(len(model.embedding.weight)))
    with pytest.raises(ModelError, match="kind: static"):
        ParallelLines("builtin:sentences").adapt(build_model(common.model_config(), 0))
