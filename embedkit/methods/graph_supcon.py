"""Token-graph supervised contrast: tokens that belong to the same class come near each other."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from embedkit.config.settings import Count, File, Positive
from embedkit.errors import DataError
from embedkit.methods.base import methods
from embedkit.methods.simctg import TokenTerm

if TYPE_CHECKING:
    from torch import Tensor, nn

    from embedkit.models.base import Model
    from embedkit.objectives.base import ObjectiveBatch


@methods.add("graph-supcon")
class GraphSupCon(TokenTerm):
    """Supervised contrast of tokens over a graph of classes (after Ghosh et al. 2021), a reconstruction.

    Only the abstract was at hand [A]: supervision goes from labelled examples to their tokens, and tokens that likely
    belong to the same class come near each other, others apart. What follows is this package's own statement. Of a
    file with labels, token t gets ``p_t(c) = (n(t, c) + smoothing * q(c)) / (n(t) + smoothing)``, n its count in
    texts of class c and q the classes' shares of all tokens. The weight of the edge between two tokens is the
    probability that both have one class, ``w_ij = Σ_c p_i(c) p_j(c)``. Of every text up to `tokens` of its tokens are
    drawn, special ones aside; over all tokens of the batch the loss of token i is
    ``-Σ_j w_ij / Σ_j w_ij * log softmax_j(cos(h_i, h_j) / temperature)``, j ≠ i, with the encoder's last states h.

    By itself it is the pre-training; beside another method it reads each of its text views.

    Parameters
    ----------
    associations : str
        A file of texts (column text, anchor or sentence) and classes (column label), usually the training data.
    tokens : int
        Tokens of a text that are drawn.
    temperature, smoothing : float
        Not published.

    Examples
    --------
    >>> from embedkit.methods import methods
    >>> methods["graph-supcon"](associations="rows.csv").tokens
    8
    """

    paper: ClassVar[str] = "Ghosh et al. 2021 (arXiv 2112.11389), abstract"
    term: ClassVar[str] = "tokens"

    def __init__(
        self, associations: File, tokens: Count = 8, temperature: Positive = 0.1, smoothing: Positive = 1.0
    ) -> None:  # fmt: skip
        self.associations, self.tokens = associations, tokens
        self.temperature, self.smoothing = temperature, smoothing

    def parts(self, model: Model) -> nn.ModuleDict:
        import torch
        from torch import nn

        from embedkit.methods.common.parts import Frozen

        shares = class_shares(self.associations, model, self.smoothing)
        words, classes = shares.shape
        table = nn.Embedding(words, classes, _weight=torch.from_numpy(shares).float())
        return nn.ModuleDict({"shares": Frozen(table)})

    def embed(self, model: Any, parts: nn.ModuleDict, inputs: Any, **settings: Any) -> Tensor:
        """Of each text the states of its drawn tokens and their p_t, zeros where it has fewer: (n, tokens (H + C))."""
        import torch

        from embedkit.models.augment.counter_rng import ranks, uniforms
        from embedkit.models.modules.masked import in_input_order

        draws = uniforms(inputs, "graph-supcon")
        special = np.isin(inputs.ids.cpu().numpy(), model.tokenizer.all_special_ids)
        rank = ranks(inputs, np.where(special, 2.0, draws))
        picks = np.flatnonzero((rank < self.tokens) & ~special)
        arrays = (picks, rank[picks], inputs.owner[picks])
        place, slot, owner = (torch.from_numpy(array).to(inputs.device) for array in arrays)
        states = in_input_order(model.token_states(inputs, **settings), inputs)[place]
        frozen: Any = parts["shares"]
        values = torch.cat([states, frozen.module(inputs.ids[place]).to(states.dtype)], dim=1)
        table = values.new_zeros(len(inputs), self.tokens, values.shape[1])
        return table.index_put((owner, slot), values).flatten(1)

    def terms(
        self, outputs: dict[str, Tensor], embeddings: dict[str, Tensor], batch: ObjectiveBatch, parts: nn.ModuleDict
    ) -> dict[str, Tensor]:
        import torch

        from embedkit.methods.common.parts import own_rows

        frozen: Any = parts["shares"]
        classes = frozen.module.embedding_dim
        tokens = torch.cat([z.unflatten(1, (self.tokens, -1)).flatten(0, 1) for z in outputs.values()])
        mine = torch.cat([own_rows(batch.owner[name], batch.rows) for name in outputs]).repeat_interleave(self.tokens)
        real = tokens[:, -classes:].sum(dim=1) > 0
        states, shares, mine = tokens[real, :-classes], tokens[real, -classes:].detach(), mine[real]
        unit = torch.nn.functional.normalize(states, dim=1)
        itself = torch.eye(len(unit), dtype=torch.bool, device=unit.device)[mine]
        scores = (unit[mine] @ unit.T / self.temperature).masked_fill(itself, -torch.inf)
        weights = (shares[mine] @ shares.T).masked_fill(itself, 0.0)
        targets = weights / weights.sum(dim=1, keepdim=True).clamp_min(torch.finfo(weights.dtype).tiny)
        losses = -(targets * scores.log_softmax(dim=1).masked_fill(itself, 0.0)).sum()
        return {self.term: losses / max(len(unit), 1)}


def class_shares(file: str, model: Any, smoothing: float) -> np.ndarray:
    """The classes of each token of the vocabulary as shares (V, C), from the texts and labels of a file.

    Raises
    ------
    DataError
        A row has no text or no label, or there is one class only.

    Examples
    --------
    >>> from pathlib import Path
    >>> from embedkit.config.recipe_io import load_recipe
    >>> from embedkit.factory import build
    >>> model = build(load_recipe("quickstart").model)
    >>> _ = Path("rows.csv").write_text("text,label\\nthe cook,food\\nthe cook,food\\nthe train,travel\\n")
    >>> table = class_shares("rows.csv", model, smoothing=1.0)
    >>> table[model.tokenizer.convert_tokens_to_ids("cook")].round(2).tolist()
    [0.83, 0.17]
    """
    from embedkit.data import read_rows

    counts: Counter[tuple[str, int]] = Counter()
    for number, row in enumerate(read_rows(file), 1):
        text = next((row[key] for key in ("text", "anchor", "sentence") if isinstance(row.get(key), str)), None)
        if text is None or row.get("label") is None:
            raise DataError("has no text or no label", where=f"{file}: row {number}",
                            remedy="give a file with the columns text and label")  # fmt: skip
        counts.update((str(row["label"]), token) for token in model.prepare([text]).ids.tolist())
    names = sorted({name for name, _ in counts})
    if len(names) < 2:
        raise DataError(f"has {len(names)} classes", where=file, remedy="give rows of two classes at least")
    table = np.zeros((len(model.encoder.get_input_embeddings().weight), len(names)))
    for (name, token), count in counts.items():
        table[token, names.index(name)] += count
    prior = table.sum(axis=0) / table.sum()
    return (table + smoothing * prior) / (table.sum(axis=1, keepdims=True) + smoothing)
