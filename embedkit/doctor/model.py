"""Models: weights, settings, tokenizer, the cloud of their vectors, and the size of what flows through them."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from embedkit.doctor.finding import Examined, Finding

if TYPE_CHECKING:
    import numpy as np

    from embedkit.models import Model

HALF = 65_504.0
"""The largest number of fp16."""

_TEXTS, _IMAGES = 500, 64


def examine_model(model: Model, folder: Path | None = None) -> Examined:
    """Facts and findings of a model: weights that are not finite, settings, tokenizer, vectors of built-in inputs.

    Parameters
    ----------
    model : Model
        The loaded model.
    folder : Path, optional
        Where it was read from; its files are compared with each other.

    Examples
    --------
    >>> from embedkit.config.recipe_io import load_recipe
    >>> from embedkit.factory import build
    >>> facts, findings = examine_model(build(load_recipe("quickstart").model))
    >>> facts["pooling"], [finding.what for finding in findings]
    ('mean', ['the vectors lie in a narrow cone'])
    """
    import torch

    from embedkit.data.builtin import sentences as builtin
    from embedkit.doctor.settings import examine_folder
    from embedkit.doctor.tokens import examine_tokens

    bad = [name for name, value in model.state_dict().items() if not bool(torch.isfinite(value.float()).all())]
    described = model.describe()
    if bad:
        remedy = "the training diverged: take an earlier checkpoint"
        return described, [Finding("weights are not finite", f"{len(bad)} tensors, first {bad[0]}", remedy)]
    findings = [] if folder is None else list(examine_folder(folder, model))
    outside = list(examine_tokens(model.text_model))
    findings += outside
    if any("embedding table" in finding.what for finding in outside):
        return described, findings  # a text may name a vector that is not there
    texts = [row["sentence1"] for row in itertools.islice(builtin.rows("graded-test"), _TEXTS)]
    inputs: dict[str, list[Any]] = {"text": texts}
    if model.kind == "dual":
        inputs["image"] = [row["image"] for row in itertools.islice(builtin.rows("shapes-test"), _IMAGES)]
    facts: dict[str, Any] = dict(described)
    with largest(model) as peaks:
        clouds = {tower: model.encode(items, normalize=False) for tower, items in inputs.items()}
    for tower, vectors in clouds.items():
        figures, faults = cloud(vectors, tower if len(clouds) > 1 else None)
        facts |= figures
        findings += faults
    if peaks:
        name, value = max(peaks.items(), key=lambda pair: pair[1])
        facts["largest activation"] = value
        if value > HALF:
            findings.append(
                Finding(
                    "activations overflow in fp16",
                    f"{value:,.0f} in {name}, the largest number is 65,504",
                    "use bf16 or fp32 for this model",
                )
            )
    return facts, findings


@contextlib.contextmanager
def largest(model: Any) -> Iterator[dict[str, float]]:
    """The largest absolute number that comes out of each part of a model in a forward pass; filled when it ends.

    Examples
    --------
    >>> import torch
    >>> model = torch.nn.Sequential(torch.nn.Identity(), torch.nn.ReLU())
    >>> with largest(model) as peaks:
    ...     _ = model(torch.tensor([-9.0, 2.0]))
    >>> peaks
    {'0': 9.0, '1': 2.0}
    """
    import torch

    tops: dict[str, Any] = {}
    peaks: dict[str, float] = {}

    def watch(name: str) -> Any:
        def hook(module: Any, arguments: Any, out: Any) -> None:
            if isinstance(out, torch.Tensor) and out.is_floating_point() and out.numel():
                top = out.detach().abs().amax().float()
                tops[name] = torch.maximum(tops[name], top) if name in tops else top

        return hook

    handles = [module.register_forward_hook(watch(name)) for name, module in model.named_modules() if name]
    try:
        yield peaks
    finally:
        for handle in handles:
            handle.remove()
        peaks.update({name: float(top) for name, top in tops.items()})


def cloud(vectors: np.ndarray, tower: str | None) -> Examined:
    """Facts and findings of the vectors (N, D) of different inputs, of one tower of several when it has a name.

    Examples
    --------
    >>> import numpy as np
    >>> facts, findings = cloud(np.array([[1.0, 0.001], [1.0, 0.0], [1.0, 0.002]]), None)
    >>> findings[0].what, findings[0].evidence
    ('all sentences have nearly the same vector', 'mean cosine 1.0000')
    """
    import numpy as np

    lengths = np.linalg.norm(vectors, axis=1)
    unit = vectors / np.maximum(lengths, 1e-12)[:, None]
    cosines = (unit @ unit.T)[~np.eye(len(unit), dtype=bool)]
    energy = np.linalg.svd(vectors - vectors.mean(axis=0), compute_uv=False) ** 2
    rank = float(energy.sum() ** 2 / max(float((energy**2).sum()), 1e-30))
    mean = float(cosines.mean())
    suffix = "" if tower is None else f" ({tower} tower)"
    facts = {
        f"mean cosine of different {'inputs' if tower else 'sentences'}{suffix}": mean,
        f"directions that carry the variance{suffix}": rank,
    }
    return facts, list(_cloud_findings(lengths, mean, rank, tower))


def _cloud_findings(lengths: np.ndarray, mean: float, rank: float, tower: str | None) -> Iterator[Finding]:
    zero = int((lengths < 1e-8).sum())
    if zero:
        remedy = "check tokenizer and pooling: nothing of these texts reaches the vector"
        yield Finding("some vectors are zero", f"{zero} of {len(lengths)}", remedy)
    if zero == len(lengths):
        return
    if tower is not None and mean > 0.9999:
        yield Finding(
            f"the {tower} tower is dead: every input has the same vector", f"mean cosine {mean:.6f}",
            "take the weights of that tower from where they were trained, or train it (is it frozen at random ones?)",
        )  # fmt: skip
    elif mean > 0.99:
        remedy = "the encoder has collapsed: lower train.lr, or choose an objective with negatives"
        what = "sentences have" if tower is None else f"inputs of the {tower} tower have"
        yield Finding(f"all {what} nearly the same vector", f"mean cosine {mean:.4f}", remedy)
    elif mean > (0.8 if tower is None else 0.95):  # towers of a dual encoder keep to a cone each
        remedy = "usual before contrastive training; train with negatives (embedkit recipes), or centre the vectors"
        what = "the vectors lie in a narrow cone" if tower is None else f"the {tower} vectors lie in a narrow cone"
        yield Finding(what, f"mean cosine {mean:.2f}", remedy)
    elif rank < 3:
        remedy = "add negatives or a term against dimensional collapse (vicreg, barlow-twins)"
        what = "few directions carry the variance" + ("" if tower is None else f" of the {tower} tower")
        yield Finding(what, f"participation ratio {rank:.1f}", remedy)
