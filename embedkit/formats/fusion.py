"""`embedkit.fuse`: several encoders as one model, side by side or one behind the other."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from embedkit.errors import ModelError
from embedkit.formats.loading import best_device, load

if TYPE_CHECKING:
    import torch

    from embedkit.models.base import Model
    from embedkit.models.combined.members import CombinedModel


def fuse(
    models: Sequence[Model | str | Path], *, weights: Sequence[float] | None = None, unit: bool = True,
    normalize: bool = True, device: str | torch.device | None = None, **options: Any,
) -> CombinedModel:  # fmt: skip
    """One model that gives the vectors of several encoders side by side; `Model.save` writes it as one folder.

    Where all but the first read vectors and the first does not, they are adapters that were trained on its vectors:
    each reads those of the one before it (`EncoderChain`), and the whole is an encoder of what the first reads.

    Parameters
    ----------
    models : sequence of Model, str or Path
        Two or more encoders of the same inputs, loaded or what `embedkit.load` takes.
    weights : sequence of float, optional
        A positive factor for each; 1 when None.
    unit : bool
        Whether the vectors of each are scaled to length 1 before their weight; or before the adapter, as `Model.encode`
        stores them by default.
    normalize : bool
        Whether `encode` scales the whole vector to length 1.
    device : str or torch.device, optional
        Of all members; the best one here when None.
    **options
        Of `embedkit.load`, for the models that are named.

    Raises
    ------
    ModelError
        As `embedkit.load`; or fewer than two models, weights that do not fit, texts beside images, an adapter for
        vectors of another size.

    Examples
    --------
    >>> import embedkit
    >>> from embedkit.data.builtin import tokenizer
    >>> from embedkit.models import StaticEncoder
    >>> folder = StaticEncoder(tokenizer(), dim=4).save("words")
    >>> both = embedkit.fuse(["words", StaticEncoder(tokenizer(), dim=8)], weights=[1.0, 0.5], device="cpu")
    >>> both.save("both").name, embedkit.load("both", device="cpu").encode("a dog").shape
    ('both', (12,))
    >>> from embedkit.models import FeatureEncoder
    >>> embedkit.fuse(["words", FeatureEncoder(width=4, dim=2)], device="cpu").encode("a dog").shape
    (2,)
    """
    from embedkit.models.combined.chain import EncoderChain
    from embedkit.models.combined.concatenation import EncoderConcatenation
    from embedkit.models.vectors.feature import FeatureEncoder

    place = best_device(device)
    members = [load(one, place, **options) if isinstance(one, str | Path) else one.to(place) for one in models]
    adapters = [member for member in members[1:] if isinstance(member, FeatureEncoder)]
    if members and members[0].input_width is None and len(adapters) == len(members) - 1 > 0:
        if weights is not None:
            raise ModelError("an adapter has no weight", where="weights", remedy="leave them out")
        chain: Model = members[0]
        for number, adapter in enumerate(adapters, 1):
            chain = EncoderChain(chain, adapter, unit, normalize if number == len(adapters) else None)
        assert isinstance(chain, EncoderChain)
        return chain.eval()
    names = {member.similarity_fn_name for member in members}
    similarity = names.pop() if len(names) == 1 else "cosine"
    return EncoderConcatenation(members, weights, unit, normalize, similarity).eval()
