"""Heads: their losses against plain restatements, missing labels, reversed gradients, kept classifiers, wrong use."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import embedkit
from embedkit.config.recipe_io import load_recipe
from embedkit.data.schema.targets import TargetFacts
from embedkit.errors import DataError, ModelError, RecipeError
from embedkit.methods import methods
from embedkit.methods.common.auxiliary import Auxiliary, WithAuxiliaries
from embedkit.methods.heads import Heads
from embedkit.models.heads.classifier import TargetHead
from embedkit.training.setup import build_method
from tests.methods import toys
from tests.training import runs

CLASSES = ["no", "perhaps", "yes"]
TARGETS: dict[str, list[Any]] = {
    "class": ["yes", None, "no", "yes"],
    "classes": [["no", "yes"], [], None, ["perhaps"]],
    "soft": [[0.2, 0.3, 0.5], None, None, [1.0, 0.0, 0.0]],
    "degrees": [[0.2, 1.0, 0.5], [0.0, 0.0, 0.0], None, [0.9, 0.1, 0.4]],
    "number": [[2.5, -1.0, 0.0], [1.0, 1.0, 1.0], None, [0.0, 3.0, 9.0]],
}


def naive(kind: str, logits: np.ndarray, target: Any, reduction: str) -> float:
    """The loss of one row."""
    log_p = logits - np.log(np.exp(logits).sum())
    if kind == "class":
        return float(-log_p[CLASSES.index(target)])
    if kind == "soft":
        return float(-(np.asarray(target) * log_p).sum())
    wanted = np.array([name in target for name in CLASSES], float) if kind == "classes" else np.asarray(target)
    if kind == "number":
        each = (logits - wanted) ** 2
    else:
        p = 1 / (1 + np.exp(-logits))
        each = -(wanted * np.log(p) + (1 - wanted) * np.log(1 - p))
    return float(each.sum() if reduction == "sum" else each.mean())


def built(kind: str, **settings: Any) -> tuple[Heads, nn.ModuleDict]:
    """A method with one head for vectors of size 5, in float64."""
    classes = {} if kind == "number" else {"classes": CLASSES}
    method = Heads([{"target": "mood", "kind": kind, **classes, **settings}])
    facts = {"number:mood": embedkit.data.schema.targets.TargetFacts(width=3)} if kind == "number" else {}
    method.learn_targets(facts)
    torch.manual_seed(3)
    head = method.heads[0]
    return method, nn.ModuleDict({"mood": head.module(5, method.facts["mood"]).double()})


@pytest.mark.parametrize("reduction", ["mean", "sum"])
@pytest.mark.parametrize("kind", TARGETS)
def test_a_term_is_the_weighted_mean_over_the_labelled_rows(kind: str, reduction: str) -> None:
    settings = {"reduction": reduction} if kind in ("classes", "degrees", "number") else {}
    method, parts = built(kind, weight=0.7, **settings)
    values = TARGETS[kind]
    targets = {"mood": torch.from_numpy(method.targets([{method.heads[0].role: value} for value in values])["mood"])}
    x = {"anchor": torch.randn(4, 5, dtype=torch.float64, requires_grad=True)}
    batch = toys.batch(x, 4, targets=targets)
    term = method.terms(x, {}, batch, parts)["head-mood"]
    logits = parts["mood"](x["anchor"]).detach().numpy()
    losses = [naive(kind, logits[i], v, reduction) for i, v in enumerate(values) if v is not None]
    assert float(term) == pytest.approx(0.7 * np.mean(losses), rel=1e-6)
    shares = [method.terms(x, {}, toys.batch(x, 4, rows, targets=targets), parts)["head-mood"]
              for rows in (slice(0, 3), slice(3, 4))]  # fmt: skip
    assert float(sum(shares)) == pytest.approx(float(term), rel=1e-12)
    term.backward()
    silent = [i for i, value in enumerate(values) if value is None]
    assert not x["anchor"].grad[silent].any() and x["anchor"].grad[0].any()


def test_mixtures_of_rows_have_the_mixed_loss_for_any_number_of_processes() -> None:
    """Rows without a label are in no mixture; the draw is that of the whole batch."""
    method, parts = built("class", mixup=0.8)
    targets = {"mood": torch.tensor([2, -1, 0, 1])}
    x = {"anchor": torch.randn(4, 5, dtype=torch.float64)}
    batch = toys.batch(x, 4, targets=targets)
    rng = batch.random("mixup mood")
    partner, share = np.array([0, 2, 3])[rng.permutation(3)], rng.beta(0.8, 0.8)
    losses = []
    for i, j in zip((0, 2, 3), partner, strict=True):
        logits = parts["mood"](share * x["anchor"][i] + (1 - share) * x["anchor"][j]).detach().numpy()
        own, other = (naive("class", logits, CLASSES[int(targets["mood"][k])], "mean") for k in (i, j))
        losses.append(share * own + (1 - share) * other)
    assert float(method.terms(x, {}, batch, parts)["head-mood"]) == pytest.approx(np.mean(losses), rel=1e-9)
    shares = [method.terms(x, {}, toys.batch(x, 4, rows, targets=targets), parts)["head-mood"]
              for rows in (slice(0, 1), slice(1, 4))]  # fmt: skip
    assert float(sum(shares)) == pytest.approx(np.mean(losses), rel=1e-9)


def test_a_batch_without_any_label_has_no_loss_and_no_nan() -> None:
    method, parts = built("class")
    targets = {"mood": torch.full((2,), -1)}
    x = {"anchor": torch.ones(2, 5, dtype=torch.float64, requires_grad=True)}
    term = method.terms(x, {}, toys.batch(x, 2, targets=targets), parts)["head-mood"]
    term.backward()
    assert float(term) == 0 and not x["anchor"].grad.any()


def test_the_encoder_gets_the_reversed_gradient_and_the_head_its_own() -> None:
    gradients = {}
    for reverse in (0.0, 0.25):
        method, parts = built("class", hidden=4, **({"reverse": reverse} if reverse else {}))
        x = {"anchor": torch.linspace(-1, 1, 20, dtype=torch.float64).reshape(4, 5).requires_grad_()}
        targets = {"mood": torch.tensor([2, -1, 0, 2])}
        method.terms(x, {}, toys.batch(x, 4, targets=targets), parts)["head-mood"].backward()
        gradients[reverse] = (x["anchor"].grad, [p.grad for p in parts.parameters()])
    assert torch.allclose(gradients[0.25][0], -0.25 * gradients[0.0][0], rtol=1e-12)
    assert gradients[0.0][0].any()
    assert all(map(torch.equal, gradients[0.25][1], gradients[0.0][1]))


def test_the_ramp_is_that_of_the_paper() -> None:
    found = []
    for step in (0, 30, 100):
        method, parts = built("class", reverse=2.0, ramp=True)
        x = {"anchor": torch.ones(1, 5, dtype=torch.float64, requires_grad=True)}
        batch = toys.batch(x, 1, targets={"mood": torch.tensor([1])}, step=step, total_steps=100)
        method.terms(x, {}, batch, parts)["head-mood"].backward()
        plain = parts["mood"].layers[0].weight
        logits = (plain @ x["anchor"][0] + parts["mood"].layers[0].bias).detach()
        own = (torch.softmax(logits, 0) - torch.tensor([0.0, 1.0, 0.0])) @ plain.detach()
        found.append(float(x["anchor"].grad[0, 0] / own[0]))
    wanted = [-2 * (2 / (1 + np.exp(-10 * p)) - 1) for p in (0, 0.3, 1)]
    assert found == pytest.approx(wanted, rel=1e-9, abs=1e-12)


def test_pairs_are_read_by_the_features_of_sentence_bert() -> None:
    method, parts = built("class", views=["anchor", "positive"], pair=["u", "v", "|u-v|"])
    x = {name: torch.randn(2, 5, dtype=torch.float64) for name in ("anchor", "positive")}
    term = method.terms(x, {}, toys.batch(x, 2, targets={"mood": torch.tensor([0, 1])}), parts)["head-mood"]
    u, v = x["anchor"].numpy(), x["positive"].numpy()
    head = parts["mood"].layers[0]
    logits = np.concatenate([u, v, abs(u - v)], 1) @ head.weight.detach().numpy().T + head.bias.detach().numpy()
    assert float(term) == pytest.approx(np.mean([naive("class", logits[i], CLASSES[i], "mean") for i in (0, 1)]))


def test_beside_another_method_it_reads_that_methods_vectors() -> None:
    heads = Heads([{"target": "mood", "classes": CLASSES, "views": ["anchor", "positive"]}])
    method = WithAuxiliaries(methods["simcse-unsup"](), [Auxiliary(heads, "heads", "auxiliary.0", weight=0.5)])
    assert list(method.views([{"anchor": "a cat"}], np.random.default_rng)) == ["anchor", "positive"]
    assert method.contract.requires == {"anchor"} and method.contract.accepts == {"class:mood"}
    method.learn_targets({})
    parts = nn.ModuleDict(
        {"main": nn.ModuleDict(), "heads": nn.ModuleDict({"mood": TargetHead(5, 3, "class").double()})}
    )
    x = {name: torch.randn(2, 5, dtype=torch.float64) for name in ("anchor", "positive")}
    numbers = method.targets([{"class:mood": "no"}, {"class:mood": "yes"}])
    batch = toys.batch(x, 2, targets={name: torch.from_numpy(values) for name, values in numbers.items()})
    found = float(method.terms(x, x, batch, parts)["head-mood"])
    logits = {name: parts["heads"]["mood"](z).detach().numpy() for name, z in x.items()}
    each = [naive("class", logits[name][i], CLASSES[2 * i], "mean") for name in x for i in (0, 1)]
    assert found == pytest.approx(0.5 * np.mean(each))


@pytest.mark.parametrize(
    ("settings", "what"),
    [
        ({"kind": "klass"}, "kind"),
        ({"targt": "a"}, "did you mean 'target'"),
        ({"ramp": True}, "nothing reads 'ramp'"),
        ({"reduction": "sum"}, "nothing reads 'reduction'"),
        ({"activation": "relu"}, "nothing reads 'activation'"),
        ({"pair": ["u", "v"]}, "two views"),
        ({"pair": ["u", "w"], "views": ["anchor", "positive"]}, "pair"),
        ({"pair": ["u", "v"], "views": ["anchor", "positive"], "keep": True}, "cannot be kept"),
        ({"classes": ["a", "a"]}, "stands twice"),
        ({"target": "a b"}, "other signs"),
    ],
)
def test_settings_that_do_not_fit_are_refused(settings: dict[str, Any], what: str) -> None:
    with pytest.raises(RecipeError, match=what):
        Heads([settings])


def test_an_unknown_view_is_refused_before_anything_is_read(tmp_path: Path) -> None:
    given = runs.recipe(auxiliary=[{"name": "heads", "heads": [{"target": "label", "views": ["second"]}]}])
    with pytest.raises(RecipeError, match="no view 'second'"):
        runs.run(tmp_path / "run", given)


def rows(path: Path, count: int = 24) -> Path:
    """A table with two named targets, of which some cells are empty."""
    lines = ["text,genre,year,tags"]
    for i in range(count):
        genre = "" if i % 4 == 0 else ("news", "poem")[i % 2]
        tags = json.dumps(["short"] * (i % 2) + ["old"] * (i % 3 == 0)).replace('"', '""')
        lines.append(f'{"a red cat sleeps" if i % 2 else "the old child runs"} {i},{genre},{1900 + i},"{tags}"')
    path.write_text("\n".join(lines) + "\n")
    return path


HEADS = [{"target": "genre", "keep": True}, {"target": "tags", "kind": "classes", "keep": True, "hidden": 6}]


def test_a_kept_head_is_saved_with_the_model_and_names_its_classes(tmp_path: Path) -> None:
    given = runs.recipe(method={"name": "heads", "heads": HEADS}, data={"train": str(rows(tmp_path / "rows.csv"))},
                        train={"max_steps": 60, "lr": 1e-2, "holdout": 0})  # fmt: skip
    given["method"] = {"name": "heads", "heads": HEADS}
    given["data"] = {"train": str(tmp_path / "rows.csv")}
    result = runs.run(tmp_path / "run", given)
    model = embedkit.load(result.output)
    texts = ["a red cat sleeps 31", "the old child runs 40"]
    assert model.classify(texts, "genre") == ["poem", "news"]
    assert model.classify(texts[0], "genre") == "poem"
    assert "short" in model.classify(texts, "tags")[0] and "short" not in model.classify(texts, "tags")[1]
    head = runs.checkpoint(tmp_path / "run", 60)
    logits = model.encode(texts, normalize=False) @ head["parts.genre.layers.0.weight"].numpy().T
    wanted = np.exp(logits + head["parts.genre.layers.0.bias"].numpy())
    found = model.classify(texts, "genre", probabilities=True)
    assert found == pytest.approx(wanted / wanted.sum(1, keepdims=True), abs=1e-6)
    again = embedkit.load(model.save(tmp_path / "again"))
    assert np.array_equal(again.classify(texts, "genre", probabilities=True), found)
    assert again.hash() == model.hash() and list(again.classifiers) == ["genre", "tags"]
    with pytest.raises(ModelError, match="several heads are kept"):
        model.classify(texts)
    with pytest.raises(ModelError, match="no head for 'gerne' is kept; did you mean 'genre'"):
        model.classify(texts, "gerne")


def test_a_damaged_classifier_is_refused(tmp_path: Path) -> None:
    from embedkit.data.builtin import tokenizer
    from embedkit.models import StaticEncoder

    model = StaticEncoder(tokenizer(), dim=4)
    model.classifiers = {"mood": TargetHead(4, 2, "class", ["a", "b"])}
    folder = model.save(tmp_path / "model")
    spec = json.loads((folder / "classifiers.json").read_text())
    spec["mood"]["outputs"] = 3
    (folder / "classifiers.json").write_text(json.dumps(spec))
    with pytest.raises(ModelError, match="do not fit"):
        embedkit.load(folder)
    model.classifiers = {}
    with pytest.raises(ModelError, match="no head is kept"):
        model.classify(["a"])


def test_a_head_behind_a_layer_of_training_only_is_not_kept() -> None:
    method = Heads([{"target": "mood", "classes": CLASSES, "keep": True}])
    from embedkit.config.recipe import ModelConfig
    from embedkit.factory import build
    from tests.training import common

    config = common.model_config(head={"kind": "tanh", "train_only": True})
    assert isinstance(config, ModelConfig)
    with pytest.raises(ModelError, match="in training only"):
        method.adapt(build(config, 0))


def test_one_class_is_no_choice(tmp_path: Path) -> None:
    (tmp_path / "rows.csv").write_text("text,genre\na cat,news\na dog,news\n")
    given = {**runs.recipe(train={"batch_size": 2}), "method": {"name": "heads", "heads": [{"target": "genre"}]},
             "data": {"train": str(tmp_path / "rows.csv")}}  # fmt: skip
    with pytest.raises(DataError, match="'news' in every row"):
        runs.run(tmp_path / "run", given)


def test_rows_without_any_class_are_told_before_a_model_is_read() -> None:
    """Lists of nouns that are all empty: no stream, and no list of classes in a recipe helps."""
    head = Heads([{"target": "nouns", "kind": "classes"}])
    with pytest.raises(DataError, match="no row names a class"):
        head.learn_targets({"classes:nouns": TargetFacts()})


def test_a_stream_needs_the_names_of_its_classes(tmp_path: Path) -> None:
    path = rows(tmp_path / "rows.csv")
    given = {**runs.recipe(train={"max_steps": 2}), "data": {"train": [{"path": str(path), "stream": True}]},
             "method": {"name": "heads", "heads": [{"target": "genre"}]}}  # fmt: skip
    with pytest.raises(RecipeError, match="a stream does not say"):
        runs.run(tmp_path / "run", given)
    given["method"]["heads"][0]["classes"] = ["news", "poem"]
    assert runs.run(tmp_path / "run", given).steps == 2


def test_one_column_is_the_label_of_the_objective_and_the_target_of_a_head(tmp_path: Path) -> None:
    given = {**runs.recipe(train={"max_steps": 2}), "method": "views", "objective": "supcon",
             "auxiliary": [{"name": "heads", "heads": [{"keep": True}]}],
             "data": {"train": [{"path": str(rows(tmp_path / "rows.csv")),
                                 "columns": {"text": "anchor", "genre": "label"}}]}}  # fmt: skip
    result = runs.run(tmp_path / "run", given)
    assert embedkit.load(result.output).classifiers["label"].classes == ("news", "poem")
    given["data"]["train"][0]["columns"]["genre"] = "group"
    with pytest.raises(DataError, match="label"):
        runs.run(tmp_path / "other", given)


def test_images_alone_are_read_by_a_dual_model(tmp_path: Path) -> None:
    from embedkit.config.recipe_io import load_recipe

    heads = [{"target": "label_name", "kind": "class", "keep": True}]
    recipe = load_recipe("simclr", smoke=True).model_dump(mode="json", exclude_defaults=True)
    given = {key: recipe[key] for key in ("name", "model", "data", "train")}
    given |= {"method": {"name": "heads", "image": True, "heads": heads}}
    result = runs.run(tmp_path / "run", given)
    model = embedkit.load(result.output)
    names = model.classifiers["label_name"].classes
    assert len(names) > 1 and result.losses[0] == pytest.approx(np.log(len(names)), rel=0.3)
    picture = np.zeros((32, 32, 3), np.uint8)
    from PIL import Image

    assert model.classify([Image.fromarray(picture)])[0] in names
    with pytest.raises(ModelError, match="is a text model"):
        Heads(heads, image=True).adapt(toys.encoder())


def test_a_setting_of_a_head_beside_a_method_is_told_at_its_place() -> None:
    recipe = load_recipe("core-tuning", {"auxiliary": [{"name": "heads", "heads": [{"target": "label", "mixup": -1}]}]})
    with pytest.raises(RecipeError, match="auxiliary.0.heads.0.mixup: "):
        build_method(recipe)
