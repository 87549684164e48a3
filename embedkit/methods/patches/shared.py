"""The base of losses of patches whose head may be that of the method beside them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from embedkit.config.settings import Count
from embedkit.errors import RecipeError
from embedkit.methods.base import Method
from embedkit.methods.common.image_views import ImageViews
from embedkit.methods.patches.prototypes import PrototypeTerm

if TYPE_CHECKING:
    from torch import Tensor, nn

    from embedkit.config.recipe import GuideConfig
    from embedkit.models.base import Model
    from embedkit.objectives.base import ObjectiveBatch

HEAD = (2048, 256, 8192)
"""Hidden width, size and prototypes of a head of its own, where a recipe says nothing."""


class SharedHeadTerm(PrototypeTerm):
    """Patches and prototypes, through a head of their own, or that of whole images.

    A shared head is projector and prototypes of `ImageViews` beside it, with its running mean; a linear layer brings
    patches into the space of the model's vectors first. Prototypes that rest there rest here.

    Parameters
    ----------
    transform
        See `PatchTerm`.
    hidden, size, prototypes : int, optional
        Of a head of its own; 2,048, 256 and 8,192 when not given.
    shared : bool
        Share the head of the method beside it.

    Examples
    --------
    >>> SharedHeadTerm().prototypes, SharedHeadTerm(shared=True).followed
    (8192, ('bridge',))
    """

    def __init__(
        self, transform: str | Mapping[str, Any] | None = "simclr", hidden: Count | None = None,
        size: Count | None = None, prototypes: Count | None = None, shared: bool = False,
    ) -> None:  # fmt: skip
        own = (hidden, size, prototypes)
        if shared and own != (None, None, None):
            raise RecipeError("hidden, size and prototypes are those of the head that is shared",
                              where="auxiliary.shared", remedy="leave them out, or shared")  # fmt: skip
        width, vector, self.prototypes = (number or usual for number, usual in zip(own, HEAD, strict=True))
        super().__init__(transform, width, vector)
        self.shares_parts, self.main = shared, None  # type: bool, ImageViews | None
        self.followed: ClassVar[tuple[str, ...]] = ("bridge",) if shared else PrototypeTerm.followed  # type: ignore[misc]

    def use_main(self, main: Method) -> None:
        if not self.shares_parts:
            return
        if not isinstance(main, ImageViews) or main.prototypes is None or main.norm or main.last_norm:
            raise RecipeError(
                "a head with prototypes and without batch normalisation is to be shared, and the method has none",
                where="auxiliary.shared", remedy="set method.prototypes and method.norm: false, or leave shared out",
            )  # fmt: skip
        self.main, self.size, self.prototypes = main, main.size, main.prototypes

    def need_means(self, guide: GuideConfig | None) -> None:
        super().need_means(guide)
        if self.shares_parts and self.main is None:
            raise RecipeError("there is no method beside it whose head it shares", where="method.shared",
                              remedy="leave shared out")  # fmt: skip

    def head_parts(self, model: Model) -> nn.ModuleDict:
        """The modules of its head, and the centre."""
        from torch import nn

        from embedkit.methods.patches.heads import Centre

        if not self.shares_parts:
            return self.with_prototypes(model, self.prototypes)
        tower: Any = model.image
        bridge = nn.Linear(tower.token_width, model.training_dim)
        return nn.ModuleDict({"bridge": bridge, "centre": Centre(self.prototypes, self.momentum)})

    def projected(self, tokens: Tensor, parts: Any) -> Tensor:
        """Patches (n, P, W) behind the projector, (n, P, size)."""
        if not self.shares_parts:
            return parts["projector"](tokens)  # type: ignore[no-any-return]
        return parts["main"]["projector"][:-1](parts["bridge"](tokens))  # type: ignore[no-any-return]

    def table(self, parts: Any) -> Tensor:
        if not self.shares_parts:
            return super().table(parts)
        return parts["main"]["projector"][-1].weight  # type: ignore[no-any-return]

    def student_table(self, batch: ObjectiveBatch, parts: Any) -> Tensor:
        """The prototypes (K, size), without gradient while they rest."""
        table = self.table(parts)
        return table.detach() if self.main is not None and self.main.resting(batch) else table
