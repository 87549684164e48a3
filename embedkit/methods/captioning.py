"""CoCa's other half: a decoder on the text tower says the caption of an image, beside the contrastive loss."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from embedkit.config.settings import Count, Whole
from embedkit.errors import ModelError
from embedkit.methods.base import methods
from embedkit.methods.patches.captions import CaptionTerm
from embedkit.methods.patches.term import check_heads

if TYPE_CHECKING:
    from torch import Tensor, nn

    from embedkit.models.base import Model
    from embedkit.models.modules.patches import PatchTokens
    from embedkit.objectives.base import ObjectiveBatch


@methods.add("captioning")
class Captioning(CaptionTerm):
    """The captioning loss of CoCa (Yu et al. 2022, TMLR, section 3.2), beside a method on image-text pairs.

    A causal text tower reads the caption without the image; a decoder on top of its tokens looks at the patches, which
    ``queries`` learned vectors pool, and says each next token. The loss is the mean cross-entropy over all tokens of
    the batch but first ones. Pool and decoder are dropped at use. In CoCa the image's own vector is pooled in the same
    way; here it stays the tower's.

    Parameters
    ----------
    layers, width, heads : int
        Of the decoder.
    queries : int
        Vectors of an image; 0 for all its patches.
    view, image : str
        See `CaptionTerm`; each text of an image is said.

    Examples
    --------
    >>> from embedkit.methods import methods
    >>> methods["captioning"]().queries
    256
    """

    paper: ClassVar[str] = "Yu et al. 2022, TMLR, CoCa, section 3.2"
    term: ClassVar[str] = "caption"

    def __init__(
        self, layers: Count = 12, width: Count = 512, heads: Count = 8, queries: Whole = 256, view: str = "positive",
        image: str = "anchor",
    ) -> None:  # fmt: skip
        super().__init__(view, image)
        check_heads(width, heads)
        self.layers, self.width, self.heads, self.queries = layers, width, heads, queries

    @property
    def shared_texts(self) -> frozenset[str]:  # type: ignore[override]
        return frozenset({self.view})

    def adapt(self, model: Model) -> None:
        super().adapt(model)
        tower: Any = model.text  # type: ignore[union-attr]
        if not getattr(tower, "causal", False):
            raise ModelError(
                f"a decoder on a {tower.kind} text tower would see the words that it is to say",
                where="model.towers.text", remedy="use a causal one, as CLIP's: {size: clip-text-base}",
            )  # fmt: skip

    def parts(self, model: Model) -> nn.ModuleDict:
        from torch import nn

        from embedkit.models.heads.cross_attention import TokenPool, token_width
        from embedkit.models.heads.fusion import CaptionDecoder

        towers: Any = model
        words = len(towers.text.tokenizer)
        decoder = CaptionDecoder(token_width(towers.text), self.width, self.layers, self.heads, words)
        pool = TokenPool(towers.image.token_width, self.width, self.queries, self.heads)
        return nn.ModuleDict({"pool": pool, "decoder": decoder})

    def patch_columns(self, patches: PatchTokens, parts: nn.ModuleDict, inputs: Any) -> Tensor:
        return parts["pool"](patches.tokens).flatten(1)  # type: ignore[no-any-return]

    def local_terms(
        self, name: str, embeddings: Tensor, inputs: Any, batch: ObjectiveBatch, model: Any, parts: nn.ModuleDict
    ) -> dict[str, Tensor]:
        import torch

        from embedkit.models.heads.cross_attention import padded_ids, real_tokens, token_vectors

        if name != self.view or batch.chunk is None:
            return {}
        image = torch.searchsorted(
            batch.owner[self.image].contiguous(), batch.owner[name][batch.chunk]
        )  # the first of its row
        memory = batch.own[self.image][self.own_place(image, batch)].unflatten(1, (-1, self.width)).to(model.dtype)
        states, real = token_vectors(model.text, inputs)
        decoder: Any = parts["decoder"]
        loss = decoder.loss(states, padded_ids(inputs)[:, : real.shape[1]], real, memory)
        count = int(real_tokens(model.text, batch.texts[name])[:, 1:].sum())
        return {self.term: loss / max(1, count)}
