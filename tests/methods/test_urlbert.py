"""URLBERT's views against power iteration text by text; its vocabulary; its recipe."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from embedkit.cli.app import main
from embedkit.config.recipe_io import load_recipe
from embedkit.errors import UserError
from embedkit.factory.tokenizer import open_tokenizer
from embedkit.factory.tokenizer_training import train_tokenizer
from embedkit.methods.common.augmenting import augmented
from embedkit.methods.simcse import SimCSEUnsupervised
from embedkit.models.augment.embedding_augmentation import normal
from embedkit.training import train
from tests.methods import toys

URLS = [f"https://shop{n % 7}.example/item/{n}?page={n % 3}" for n in range(60)]


def test_the_view_climbs_from_its_noise_and_has_length_one_a_token() -> None:
    view = {"name": "adversarial", "epsilon": 0.6, "steps": 2, "step_size": 0.5, "start": 1e-2, "per": "token"}
    method = augmented(SimCSEUnsupervised, {"positive": [view]})()
    model = toys.encoder("bert", pooling="mean")
    settings = method.views([{"anchor": "a"}], np.random.default_rng)["positive"].settings
    inputs = toys.seeded(model.prepare(toys.TEXTS))
    found = method.embed(model, torch.nn.ModuleDict(), inputs, **settings).detach()

    def vector(ids: list[int], noise: Any) -> torch.Tensor:
        handle = model.encoder.embeddings.register_forward_hook(
            lambda _, args, out: out if noise is None else out + noise[None]
        )
        try:
            return model.encoder(torch.tensor([ids])).last_hidden_state[0].mean(dim=0)  # type: ignore[no-any-return]
        finally:
            handle.remove()

    for place, ids in enumerate(inputs.rows()):
        one = inputs.select(np.array([place]))
        noise = 1e-2 * normal(torch.zeros(len(ids), model.hidden_size, dtype=torch.float64), one, "adversarial")
        clean = vector(ids, None).detach()
        for _ in range(2):
            leaf = noise.clone().requires_grad_()
            (g,) = torch.autograd.grad(1 - F.cosine_similarity(vector(ids, leaf), clean, dim=0), leaf)
            noise = noise + 0.5 * g
        expected = vector(ids, 0.6 * noise / noise.norm(dim=1, keepdim=True))
        assert torch.allclose(found[place], expected.detach(), rtol=1e-6)


@pytest.mark.parametrize("kind", ["wordpiece", "bpe"])
def test_a_vocabulary_of_ones_own_is_as_large_as_asked_and_the_same_again(kind: str, tmp_path: Path) -> None:
    size = 80 if kind == "wordpiece" else 300
    first, second = (train_tokenizer(URLS, size, kind) for _ in range(2))
    assert len(first) <= size and first.get_vocab() == second.get_vocab()
    ids = first(URLS[0]).input_ids
    assert ids[0] == first.cls_token_id and ids[-1] == first.sep_token_id and first.unk_token_id not in ids
    assert len(ids) < len(URLS[0])  # it has pieces, not characters alone
    assert first(URLS[0].upper()).input_ids == ids
    kept = train_tokenizer(URLS, size, kind, lower_case=False)
    assert kept(URLS[0].upper()).input_ids != kept(URLS[0]).input_ids


def test_wrong_vocabularies_are_refused() -> None:
    with pytest.raises(UserError, match="unknown kind 'wordpieces'; did you mean"):
        train_tokenizer(URLS, 80, "wordpieces")
    with pytest.raises(UserError, match="characters"):
        train_tokenizer(URLS, 10)


def test_the_command_trains_a_vocabulary_that_the_recipe_takes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("urls.csv").write_text("\n".join(["url,kind", *(f"{url},shop" for url in URLS)]))
    assert main(["tokenizer", "urls.csv", "pieces", "--size", "90"]) == 2
    assert "which column holds the texts" in capsys.readouterr().err
    assert main(["tokenizer", "urls.csv", "pieces", "--size", "90", "--column", "url"]) == 0
    assert len(open_tokenizer("pieces")) <= 90
    small = "{model_type: bert, hidden_size: 16, num_hidden_layers: 1, num_attention_heads: 2, intermediate_size: 32}"
    changes = ["data.train=[{path: urls.csv, columns: {url: anchor}}]", "model.tokenizer=pieces", "train.max_steps=2",
               f"model.config={small}", "train.epochs=null", "train.batch_size=8", "train.output=run"]  # fmt: skip
    train(load_recipe("urlbert", changes))
    log = [line for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines() if '"vat"' in line]
    assert len(log) == 2 and all('"mlm"' in line for line in log)
