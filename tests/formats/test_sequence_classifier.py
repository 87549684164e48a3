"""A kept classifier leaves as transformers' sequence classifier, and comes back with the same answers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import embedkit
from embedkit.errors import ModelError
from embedkit.formats.sequence_classifier.layout import PLACES
from embedkit.models.heads.classifier import TargetHead
from tests.helpers import tiny

TEXTS = [text for text in tiny.SENTENCES if text]


def classifier(family: str, kind: str = "class", **settings: Any) -> Any:
    """A random encoder with a random head of the form that its architecture's classifier has."""
    model = tiny.text_encoder(family, pooling="cls")
    width, activation = model.hidden_size, PLACES[family].activation
    torch.manual_seed(1)
    head = TargetHead(width, 3, kind, ["a", "b", "c"], **{"hidden": width, "activation": activation, **settings})
    model.classifiers = {"tone": head.eval()}
    return model


@pytest.mark.parametrize("family", [name for name in PLACES if name in tiny.CONFIGS])
def test_logits_are_equal_by_transformers_own_classes(family: str, tmp_path: Path) -> None:
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    model = classifier(family)
    folder = embedkit.export(model, tmp_path / "out", "sequence-classifier", samples=5)
    theirs = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    tokens = AutoTokenizer.from_pretrained(folder)(TEXTS, padding=True, return_tensors="pt")
    tokens.pop("token_type_ids", None)
    with torch.inference_mode():
        logits = theirs(**tokens).logits
    ours = model.classifiers["tone"](torch.from_numpy(model.encode(TEXTS, normalize=False)))
    torch.testing.assert_close(logits, ours, atol=2e-6 * float(ours.detach().abs().max()), rtol=0)
    assert [theirs.config.id2label[int(place)] for place in logits.argmax(1)] == model.classify(TEXTS)
    report = json.loads((folder / "embedkit_export.json").read_text())
    assert report["logits"]["difference"] <= 1e-6 * max(1.0, report["logits"]["largest"])
    again = embedkit.load(folder, device="cpu")
    np.testing.assert_allclose(again.classify(TEXTS, probabilities=True), model.classify(TEXTS, probabilities=True),
                               atol=1e-6)  # fmt: skip
    assert list(again.classifiers) == ["tone"] and again.classifiers["tone"].spec() == model.classifiers["tone"].spec()


@pytest.mark.parametrize(
    ("kind", "problem"),
    [("classes", "multi_label_classification"), ("number", "regression"), ("soft", "single_label_classification")],
)
def test_the_kind_of_a_head_is_kept(kind: str, problem: str, tmp_path: Path) -> None:
    model = classifier("bert", kind)
    folder = embedkit.export(model, tmp_path / "out", "sequence-classifier", samples=2)
    assert json.loads((folder / "config.json").read_text())["problem_type"] == problem
    again = embedkit.load(folder, device="cpu")
    np.testing.assert_allclose(again.classify(TEXTS, probabilities=True), model.classify(TEXTS, probabilities=True),
                               atol=1e-5)  # fmt: skip


def test_weights_that_transformers_saved_count(tmp_path: Path) -> None:
    from transformers import AutoModelForSequenceClassification

    folder = embedkit.export(classifier("roberta"), tmp_path / "out", "sequence-classifier", samples=2)
    theirs = AutoModelForSequenceClassification.from_pretrained(folder)
    with torch.no_grad():
        theirs.classifier.out_proj.bias.copy_(torch.tensor([0.0, 0.0, 1e6]))
    theirs.save_pretrained(folder)
    assert embedkit.load(folder, device="cpu").classify(TEXTS) == ["c"] * len(TEXTS)


def test_what_a_classifier_of_transformers_cannot_be_is_told(tmp_path: Path) -> None:
    def refused(model: Any, what: str) -> None:
        with pytest.raises(ModelError, match=what):
            embedkit.export(model, tmp_path / "out", "sequence-classifier")

    model = classifier("bert")
    model.pooling = "mean"
    refused(model, "it reads the first token, the model pools by mean; train with model.pooling: cls")
    refused(classifier("bert", activation="relu"), "its hidden layer has 32 numbers and tanh, the head 32 .* and relu")
    refused(classifier("bert", hidden=0), "the head none")
    refused(tiny.text_encoder("bert", pooling="cls"), "no head is kept with the model.*; train it with keep: true")
    two = classifier("bert")
    two.classifiers = {**two.classifiers, "topic": two.classifiers["tone"]}
    refused(two, "heads are kept for tone, topic, and a sequence classifier has one; keep one head alone")
    assert not (tmp_path / "out").exists()
