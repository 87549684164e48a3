"""Projectors of branches: multilayer perceptrons behind some views, for training only. Torch is imported inside."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Set
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from embedkit.config.settings import Count
from embedkit.methods.branches.views import BranchViews, read_branches

if TYPE_CHECKING:
    from torch import Tensor, nn

    from embedkit.models.base import Model
    from embedkit.objectives.base import ObjectiveBatch


@dataclass(frozen=True)
class ProjectorSettings(BranchViews):
    """A branch: what of which views goes through which projector.

    Attributes
    ----------
    views : list of str
        Views that it reads; images and texts have a projector each, used for all views of the kind.
    size : int
        Numbers of an embedding.
    hidden : int
        Width of the hidden layers.
    layers : int
        Linear layers; with one there is neither a hidden layer nor an activation.
    norm : bool
        Batch normalisation of the hidden layers, over all rows of a view.
    reads : str
        "tower": the vectors of the tower, before the model's own projection into the shared space; or "shared": those
        behind it, which a running mean of the model (``guide: {ema: ...}``) gives too.

    Examples
    --------
    >>> ProjectorSettings(views=["image1", "text1"], size=8, layers=2).names("local")
    {'image1': 'local-image1', 'text1': 'local-text1'}
    """

    size: Count = 256
    hidden: Count = 4096
    layers: Count = 3
    norm: bool = True
    reads: Literal["tower", "shared"] = "tower"

    def inputs(self, model: Model, tower: str) -> int:
        """Numbers of what the projector of a tower reads."""
        dual: Any = model
        return int(dual.projections[tower].inputs if self.reads == "tower" else dual.dim)

    def module(self, inputs: int) -> nn.Sequential:
        """A fresh projector, (N, inputs) -> (N, size)."""
        from embedkit.models.heads.projector import projector

        return projector(inputs, self.hidden, self.size, layers=self.layers, norm=self.norm)


def running_mean(module: nn.Module) -> nn.Module:
    """A copy without gradient, to follow a projector.

    Examples
    --------
    >>> from torch import nn
    >>> [p.requires_grad for p in running_mean(nn.Linear(2, 2)).parameters()]
    [False, False]
    """
    return copy.deepcopy(module).requires_grad_(False)


class Branches:
    """The branches of a method: embeddings of some views by projectors of their own, one a branch and tower.

    Parameters
    ----------
    config : mapping
        Branch -> `ProjectorSettings`.
    towers : mapping
        View -> "image" or "text", all that there are.

    Raises
    ------
    RecipeError
        See `read_branches`.

    Examples
    --------
    >>> branches = Branches({"local": {"views": ["image1"], "size": 16}}, {"anchor": "image", "image1": "image"})
    >>> branches.sizes, branches.raw_views
    ({'local-image1': 16}, {'image1'})
    """

    def __init__(self, config: Mapping[str, Mapping[str, Any]], towers: Mapping[str, str]) -> None:
        self.towers = dict(towers)
        self.settings = read_branches(ProjectorSettings, config, list(towers))

    @property
    def sizes(self) -> dict[str, int]:
        """Embedding of a branch -> size of its vectors."""
        return {name: one.size for branch, one in self.settings.items() for name in one.names(branch).values()}

    def shared(self, unseen: Set[str]) -> frozenset[str]:
        """Embeddings of branches that read the shared space, of views but those that a guide does not see."""
        return frozenset(name for branch, one in self.settings.items() if one.reads == "shared"
                         for view, name in one.names(branch).items() if view not in unseen)  # fmt: skip

    @property
    def listed(self) -> frozenset[str]:
        """What a term has to read: embeddings of branches, and further views that no branch reads."""
        read = {view for one in self.settings.values() for view in one.views}
        return frozenset({*self.sizes, *self.towers} - {"anchor", "positive"} - read)

    @property
    def raw_views(self) -> set[str]:
        """Views of which a branch reads what the tower gives."""
        return {view for one in self.settings.values() if one.reads == "tower" for view in one.views}

    def modules(self, model: Model, means: bool) -> nn.ModuleDict:
        """Fresh projectors; with `means` those of the shared space have a running mean each."""
        from torch import nn

        parts = nn.ModuleDict()
        for branch, one in self.settings.items():
            for tower in sorted({self.towers[view] for view in one.views}):
                module = one.module(one.inputs(model, tower))
                parts[f"{branch}-{tower}"] = module
                if means and one.reads == "shared":
                    parts[f"mean-{branch}-{tower}"] = running_mean(module)
        return parts

    def project(self, outputs: Mapping[str, Tensor], batch: ObjectiveBatch, parts: nn.ModuleDict) -> dict[str, Tensor]:
        """The vectors of all views in the shared space, and those of the branches."""
        import torch

        width: dict[str, Any] = {name: module[0].in_features for name, module in parts.items()}  # type: ignore[index]
        shared = dict(outputs)
        for branch, one in self.settings.items():
            for view in one.views if one.reads == "tower" else ():
                shared[view] = outputs[view][:, : -width[f"{branch}-{self.towers[view]}"]]
        embeddings = dict(shared)
        for branch, one in self.settings.items():
            for view, name in one.names(branch).items():
                key = f"{branch}-{self.towers[view]}"
                vectors = outputs[view][:, -width[key] :] if one.reads == "tower" else shared[view]
                embeddings[name] = parts[key](vectors)
                for facts in (batch.owner, batch.keys):
                    facts[name] = facts[view]
                if f"mean-{key}" in parts and view in batch.guide:
                    with torch.no_grad():
                        batch.guide[name] = parts[f"mean-{key}"](batch.guide[view])
        return embeddings

    @staticmethod
    def follow(parts: nn.ModuleDict, decay: float) -> None:
        """Move the running means, where there are any, towards their projectors."""
        import torch

        for name, mean in parts.items():
            if name.startswith("mean-"):
                now = [parameter.detach() for parameter in parts[name.removeprefix("mean-")].parameters()]
                torch._foreach_lerp_(list(mean.parameters()), now, 1.0 - decay)
