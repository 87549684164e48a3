"""What a sentence tells of its document: neighbours, place, nesting level and title, as DiscoEval trains encoders."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

import numpy as np
from pydantic import Field

from embedkit.config.settings import Count
from embedkit.data.schema.contract import Contract
from embedkit.errors import RecipeError
from embedkit.methods.base import Method, Row, View, methods

if TYPE_CHECKING:
    from torch import Tensor, nn

    from embedkit.models.base import Model
    from embedkit.models.inputs.inputs import Inputs
    from embedkit.objectives.base import ObjectiveBatch

Weight = Annotated[float, Field(ge=0)]
_NONE = -1
BAGS = ("previous", "next", "title")


@methods.add("discourse")
class Discourse(Method):
    """The learning criteria of DiscoEval (Chen et al. 2019, EMNLP, section 4).

    A row is a section: its sentences in order, as ``label`` the nesting level of the section (0, 1, ...), as
    ``positive`` its title. One sentence is drawn; from its vector classifiers predict, each with a weight:

    - `neighbours`: the words of the previous and of the next sentence (two decoders);
    - `place`: the number of the sentence in its section (those beyond `places` count as the last);
    - `level`: the nesting level; `title`: the words of the section's title.

    Words are token ids; a loss is the mean over them of -log softmax. In the official code the neighbours are written
    by recurrent decoders; here they are bags of words, as its titles are. The paragraph's number and the document's
    title, which it predicts too, are left out. The classifiers are dropped at inference.

    Parameters
    ----------
    neighbours, place, level, title : float
        Weights; 0 switches one off. Level and title are read where the rows have them.
    places, levels : int
        Classes of `place` and `level`.
    hidden : int
        Size of the hidden layer of the classifiers of place and level.

    Examples
    --------
    >>> from embedkit.methods import methods
    >>> sorted(methods["discourse"].contract.roles)
    ['label', 'positive', 'sentences']
    """

    paper: ClassVar[str] = "Chen et al. 2019, EMNLP, Evaluation benchmarks and learning criteria, section 4"
    contract: ClassVar[Contract] = Contract(
        requires=frozenset({"sentences"}), accepts=frozenset({"label", "positive"}),
        limits={"sentences": (2, float("inf"))},
    )  # fmt: skip
    objective: ClassVar[dict[str, Any] | None] = None

    def __init__(
        self, neighbours: Weight = 1.0, place: Weight = 1.0, level: Weight = 1.0, title: Weight = 1.0,
        places: Count = 32, levels: Count = 8, hidden: Count = 300,
    ) -> None:  # fmt: skip
        weights = {"previous": neighbours, "next": neighbours, "place": place, "level": level, "title": title}
        self.weights = {name: weight for name, weight in weights.items() if weight}
        if not self.weights:
            raise RecipeError("nothing is predicted", where="method", remedy="leave one weight above 0")
        self.contract = replace(self.contract, limits={**self.contract.limits, "label": (0, levels - 1)})  # type: ignore[misc]
        self.sizes, self.hidden = {"place": places, "level": levels}, hidden

    def embedded(self, roles: frozenset[str]) -> frozenset[str]:
        return frozenset()

    def parts(self, model: Model) -> nn.ModuleDict:
        from torch import nn

        size, words = model.training_dim, len(model.tokenizer)  # type: ignore[attr-defined]
        heads: dict[str, nn.Module] = {}
        for name in self.weights:
            if name in self.sizes:
                heads[name] = nn.Sequential(
                    nn.Linear(size, self.hidden), nn.ReLU(), nn.Linear(self.hidden, self.sizes[name])
                )
            else:
                heads[name] = nn.Linear(size, words)
        return nn.ModuleDict(heads)

    def views(self, rows: Sequence[Row], random: Callable[[int], np.random.Generator]) -> dict[str, View]:
        places = [int(random(i).integers(len(row["sentences"]))) for i, row in enumerate(rows)]
        labels = [row.get("label") for row in rows]
        data = {
            "place": np.minimum(places, self.sizes["place"] - 1),
            "level": np.asarray([_NONE if label is None else label for label in labels], np.int64),
        }
        texts: dict[str, list[str]] = {"anchor": [], "previous": [], "next": [], "title": []}
        for row, place in zip(rows, places, strict=True):
            sentences = row["sentences"]
            texts["anchor"].append(sentences[place])
            texts["previous"].append(sentences[place - 1] if place else "")
            texts["next"].append(sentences[place + 1] if place + 1 < len(sentences) else "")
            texts["title"].append(row.get("positive") or "")
        data |= {f"{name} text": np.asarray(texts[name], object) for name in BAGS}
        return {"anchor": View(texts["anchor"], list(range(len(rows))), data=data)}

    def prepare(self, model: Any, name: str, view: View) -> Inputs:
        bags, width = {}, model.max_length
        for bag in BAGS:
            texts = list(view.data[f"{bag} text"])
            ids = model.tokenizer(texts, add_special_tokens=False, verbose=False)["input_ids"] if texts else []
            rows = [(own + [_NONE] * width)[:width] for own in ids]
            bags[bag] = np.asarray(rows, np.int64).reshape(-1, width)
        return model.prepare(view.inputs, view.prompt).replace(**bags)  # type: ignore[no-any-return]

    def embed(self, model: Any, parts: nn.ModuleDict, inputs: Any, **settings: Any) -> Tensor:
        """Of each sentence the loss and whether there is one (0 or 1), criterion after criterion: (n, 2 C)."""
        import torch

        vectors = model(inputs, **settings)
        columns = []
        for name in self.weights:
            targets = torch.as_tensor(inputs.data[name], device=vectors.device).reshape(len(vectors), -1)
            there = targets >= 0
            logits = parts[name](vectors)
            logs = (logits.float() if logits.dtype != torch.float64 else logits).log_softmax(dim=1)
            losses = -(logs.gather(1, targets.clamp(min=0)) * there).sum(1) / there.sum(1).clamp(min=1)
            columns += [losses, there.any(1).to(losses.dtype)]
        return torch.stack(columns, dim=1)

    def project(self, outputs: dict[str, Tensor], batch: ObjectiveBatch, parts: nn.ModuleDict) -> dict[str, Tensor]:
        return {}

    def terms(
        self, outputs: dict[str, Tensor], embeddings: dict[str, Tensor], batch: ObjectiveBatch, parts: nn.ModuleDict
    ) -> dict[str, Tensor]:
        terms_by_name = {}
        for place, (name, weight) in enumerate(self.weights.items()):
            losses, there = outputs["anchor"][:, 2 * place : 2 * place + 2].T
            terms_by_name[name] = weight * losses[batch.rows].sum() / there.sum().detach().clamp(min=1.0)
        return terms_by_name
