"""Projectors of methods on images beside the first one, each of some of the views: Mugs' heads of its three terms."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, Literal

from embedkit.config.settings import Count
from embedkit.methods.branches.views import BranchViews, read_branches

if TYPE_CHECKING:
    from torch import Tensor, nn

    from embedkit.objectives.base import ObjectiveBatch


@dataclass(frozen=True)
class ImageProjector(BranchViews):
    """One of them; what is None is as in the method's own projector.

    Attributes
    ----------
    views : list of str
        Views that go through it.
    hidden, size, layers, norm, last_norm, activation
        See `embedkit.methods.common.image_views.ImageViews`.

    Examples
    --------
    >>> ImageProjector(views=["anchor", "positive"]).names("local")
    {'anchor': 'local-anchor', 'positive': 'local-positive'}
    """

    hidden: Count | None = None
    size: Count | None = None
    layers: Count | None = None
    norm: bool | None = None
    last_norm: bool | None = None
    activation: Literal["relu", "gelu"] | None = None


class ImageProjectors:
    """All of them.

    Parameters
    ----------
    config : mapping
        Name -> `ImageProjector`.
    views : sequence of str
        All that there are.
    usual : mapping
        Settings of the method's own projector.

    Raises
    ------
    RecipeError
        See `read_branches`.

    Examples
    --------
    >>> usual = {"hidden": 8, "size": 4, "layers": 2, "norm": False, "last_norm": False, "activation": "relu"}
    >>> further = ImageProjectors({"local": {"views": ["anchor"], "size": 6}}, ["anchor", "positive"], usual)
    >>> further.sizes, list(further.modules(16))
    ({'local-anchor': 6}, ['projector-local'])
    """

    def __init__(
        self, config: Mapping[str, Mapping[str, Any]], views: Sequence[str], usual: Mapping[str, Any]
    ) -> None:  # fmt: skip
        self.settings: dict[str, ImageProjector] = {}
        for name, own in read_branches(ImageProjector, config, views).items():
            settings = {field.name: getattr(own, field.name) for field in fields(own)}
            self.settings[name] = ImageProjector(**{**usual, **{k: v for k, v in settings.items() if v is not None}})

    @property
    def parts(self) -> tuple[str, ...]:
        """Names of the modules, which a running mean may follow."""
        return tuple(map(_part, self.settings))

    @property
    def sizes(self) -> dict[str, int]:
        """Embedding -> size of its vectors."""
        return {name: self._size(one) for branch, one in self.settings.items() for name in one.names(branch).values()}

    @staticmethod
    def _size(one: ImageProjector) -> int:
        assert one.size is not None
        return one.size

    def of_view(self, view: str) -> set[str]:
        """Embeddings of a view."""
        return {one.names(branch)[view] for branch, one in self.settings.items() if view in one.views}

    def of_parts(self, parts: Sequence[str]) -> dict[str, str]:
        """Embedding -> view, of the projectors whose modules are among these."""
        return {name: view for branch, one in self.settings.items() if _part(branch) in parts
                for view, name in one.names(branch).items()}  # fmt: skip

    def modules(self, inputs: int) -> dict[str, nn.Module]:
        """Fresh projectors, (N, inputs) -> (N, size) each."""
        from embedkit.models.heads.projector import projector

        modules: dict[str, nn.Module] = {}
        for branch, one in self.settings.items():
            own: dict[str, Any] = {f.name: getattr(one, f.name) for f in fields(one)}
            del own["views"]
            modules[_part(branch)] = projector(inputs, own.pop("hidden"), own.pop("size"), **own)
        return modules

    def project(self, vectors: Mapping[str, Tensor], parts: Any) -> dict[str, Tensor]:
        """The embeddings of these views, through those of the projectors that are among `parts`."""
        from embedkit.models.heads.projector import together

        embeddings: dict[str, Tensor] = {}
        for branch, one in self.settings.items():
            own = {name: vectors[view] for view, name in one.names(branch).items() if view in vectors}
            if own and _part(branch) in parts:
                embeddings |= together(parts[_part(branch)], own)
        return embeddings

    def note_owners(self, batch: ObjectiveBatch) -> None:
        """Tell the batch whose the embeddings are."""
        for branch, one in self.settings.items():
            for view, name in one.names(branch).items():
                for facts in (batch.owner, batch.keys):
                    facts[name] = facts[view]


def _part(branch: str) -> str:
    return f"projector-{branch}"
