"""DiffCSE: projector statistics, edited sentences, and the discriminator's loss against BERT written out."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from embedkit.config.recipe_io import load_recipe
from embedkit.errors import ModelError, RecipeError, UserError
from embedkit.evaluation import evaluate
from embedkit.formats import load
from embedkit.formats.transformers.masked_head import masked_head
from embedkit.methods.common.parts import generator
from embedkit.methods.diffcse import DiffCSE
from embedkit.models.inputs.inputs import Inputs
from embedkit.models.modules.masked import MaskedModel, hide_tokens, in_input_order
from embedkit.training import train
from tests.helpers import tiny
from tests.methods import toys


def made(fidelity: str = "code") -> tuple[DiffCSE, Any, Any]:
    """Method, encoder and parts; the generator says a fixed function of the token it reads."""
    method, model = DiffCSE(None, 0.4, 0.5, fidelity), toys.encoder("bert", pooling="cls")
    torch.manual_seed(3)
    parts = method.parts(model).double().train()
    tiny.spread(parts["discriminator"].encoder)
    parts["generator"].module.guesses = lambda inputs, sample=False: inputs.ids.where(
        inputs.ids % 3 != 0, (inputs.ids * 7 + 3) % 60
    )
    return method, model, parts


def test_projector_normalises_the_rows_of_both_views_together() -> None:
    method, _, parts = made()
    outputs = {name: torch.randn(5, 32, dtype=torch.float64) + i for i, name in enumerate(("anchor", "positive"))}
    found = method.project(outputs, toys.batch(outputs, 5), parts)

    def norm(x: torch.Tensor) -> torch.Tensor:
        return (x - x.mean(0)) / torch.sqrt(x.var(0, unbiased=False) + 1e-5)

    layers = parts["projector"].layers
    x = torch.cat([outputs["anchor"], outputs["positive"]])  # 2B rows
    x = torch.relu(norm(x @ layers[0].weight.T) * layers[1].weight + layers[1].bias)
    wanted = norm(x @ layers[3].weight.T)
    assert layers[0].weight.shape == (64, 32)
    assert torch.allclose(torch.cat([found["anchor"], found["positive"]]), wanted, atol=1e-12)
    apart = norm(wanted[:5])
    assert not torch.allclose(found["anchor"], apart, atol=1e-3)  # statistics of one view would be others


@pytest.mark.parametrize("fidelity", ["code", "paper"])
def test_the_generator_edits_every_place_in_code_and_masked_places_on_paper(fidelity: str) -> None:
    method, model, parts = made(fidelity)
    inputs = toys.seeded(model.prepare(toys.TEXTS))
    hidden = hide_tokens(inputs, model.tokenizer, 0.4)
    said = parts["generator"].module.guesses(hidden.inputs).tolist()
    wanted, start = [], 0
    for row in inputs.rows():
        for place, token in enumerate(row):
            edited = fidelity == "code" or hidden.targets[start + place]
            wanted.append(said[start + place] if edited and place > 0 else token)
        start += len(row)
    found = method.edited(inputs, model, parts)
    assert found.ids.tolist() == wanted
    assert found.ids.tolist() != inputs.ids.tolist()


@pytest.mark.parametrize("fidelity", ["code", "paper"])
def test_loss_of_replaced_tokens_is_that_of_bert_with_the_vector_in_first_place(fidelity: str) -> None:
    method, model, parts = made(fidelity)
    inputs = toys.seeded(model.prepare(toys.TEXTS))
    z = torch.randn(4, 32, dtype=torch.float64, requires_grad=True)
    names = {"anchor": z, "positive": z}
    batch = toys.batch(names, 4, lengths={"anchor": torch.tensor([3, 4, 5, 6]), "positive": torch.tensor([9, 2, 2, 2])})
    found = method.local_terms("anchor", z, inputs, batch, model, parts)["replaced"]
    total = torch.zeros((), dtype=torch.float64)
    for row, edited, vector in zip(inputs.rows(), method.edited(inputs, model, parts).rows(), z, strict=True):
        states = toys.bert(parts["discriminator"], edited, list(range(len(row))), first=vector)
        labels = torch.tensor([int(a != b) for a, b in zip(row, edited, strict=True)])
        assert labels[0] == 0
        total = total + F.cross_entropy(parts["replaced"](states), labels, reduction="sum")
    wanted = 0.5 * total / (8 * 9 if fidelity == "code" else 8)  # 2B rows x the longest of the batch, or 2B rows
    assert found.item() == pytest.approx(wanted.item(), rel=1e-10)
    (gradient,) = torch.autograd.grad(found, z)
    (known,) = torch.autograd.grad(wanted, z)
    assert torch.allclose(gradient, known, atol=1e-12)
    assert gradient.abs().max() > 1e-4


def test_the_generator_is_frozen_and_in_no_checkpoint() -> None:
    _, _, parts = made()
    assert not [name for name in parts.state_dict() if name.startswith("generator")]
    held = parts["generator"].module
    assert all(not p.requires_grad and p.dtype == torch.float64 for p in held.model.parameters())  # moved with the rest
    assert held.training
    assert not DiffCSE(None, fidelity="paper").parts(toys.encoder()).train()["generator"].module.training
    names = {name.split(".")[0] for name, _ in parts.named_parameters()}
    assert names == {"projector", "discriminator", "replaced"}


def test_on_paper_words_are_drawn_from_the_generator() -> None:
    model = toys.encoder()
    frozen = MaskedModel(model, masked_head(model).double())
    one = model.prepare(["the dog sings"])
    many = toys.seeded(Inputs.of(one.rows() * 4000))
    drawn = frozen.guesses(many, sample=True).view(4000, -1)
    states = in_input_order(model.token_states(one), one)
    wanted = frozen.head(states, model.encoder.get_input_embeddings().weight).softmax(1)
    for place, law in enumerate(wanted):
        seen = torch.bincount(drawn[:, place], minlength=len(law)) / 4000
        assert float((seen - law).abs().max()) < 4 * 0.5 / 4000**0.5
    assert torch.equal(frozen.guesses(many.select(np.arange(100, 200)), sample=True).view(100, -1), drawn[100:200])
    method, model, parts = made("paper")
    asked: list[bool] = []
    parts["generator"].module.guesses = lambda inputs, sample: asked.append(sample) or inputs.ids
    method.edited(toys.seeded(model.prepare(toys.TEXTS)), model, parts)
    assert asked == [True]


def test_a_generator_from_a_folder_guesses_like_transformers(tmp_path: Any) -> None:
    from transformers import AutoModelForMaskedLM

    from embedkit.methods.mlm import MaskedWords

    teacher, model = toys.encoder("distilbert").float().eval(), toys.encoder()
    MaskedWords().adapt(teacher)
    teacher.save(tmp_path / "generator")
    found = generator(str(tmp_path / "generator"), model, dropout=False)
    inputs = model.prepare(toys.TEXTS)
    theirs = AutoModelForMaskedLM.from_pretrained(tmp_path / "generator").eval()
    wanted = [theirs(input_ids=torch.tensor([row])).logits[0].argmax(1).tolist() for row in inputs.rows()]
    assert Inputs(found.module.guesses(inputs), inputs.offsets).rows() == wanted
    toys.encoder().float().save(tmp_path / "headless")
    with pytest.raises(ModelError, match="holds no masked-word head"):
        generator(str(tmp_path / "headless"), model, dropout=False)
    other = tiny.text_encoder("bert")
    other.tokenizer.add_tokens(["more"])
    with pytest.raises(ModelError, match="another vocabulary"):
        generator(str(tmp_path / "generator"), other, dropout=False)


def test_the_transfer_recipe_chooses_its_checkpoint_by_development_accuracies(tmp_path: Path) -> None:
    for task, split in (("cr", "all"), ("trec", "train")):
        rows = [f"{toys.TEXTS[n % len(toys.TEXTS)]} {n % 7}\t{n % 4 // 2}\t{split}" for n in range(60)]
        (tmp_path / f"{task}.tsv").write_text("\n".join(["text\tlabel\tsplit", *rows]) + "\n")
    config = load_recipe("diffcse-transfer").evaluation
    assert config is not None and config.settings == {"fidelity": "senteval-fast", "folds": 5}
    here = config.model_dump() | {"data": str(tmp_path), "tasks": ["cr", "trec"], "every": 2}
    result = train("diffcse-transfer", [f"evaluation={json.dumps(here)}"], output=tmp_path / "run", smoke=True)
    log = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    found = {row["step"]: row["scores"]["transfer/avg"] for row in log if "scores" in row}
    assert sorted(found) == [2, 4] and result.best["value"] == max(found.values())
    asked = {"tasks": ["cr", "trec"], "split": "dev", "resamples": 0}
    again = evaluate(load(result.output), "transfer", tmp_path, settings=config.settings, **asked)
    assert again.scores["avg"] == pytest.approx(found[result.best["step"]], abs=1e-6)
    assert evaluate(load(result.output), "transfer", tmp_path, **asked).scores["avg"] > again.scores["avg"] + 10
    wrong = here | {"settings": {"fold": 5}}
    with pytest.raises(UserError, match="unknown evaluation setting 'fold'"):
        train("diffcse-transfer", [f"evaluation={json.dumps(wrong)}"], output=tmp_path / "wrong", smoke=True)


def test_wrong_settings_are_refused() -> None:
    with pytest.raises(RecipeError, match="mask_rate is 2"):
        DiffCSE(mask_rate=2)
    with pytest.raises(RecipeError, match="it must be 'code' or 'paper'"):
        DiffCSE(fidelity="book")
