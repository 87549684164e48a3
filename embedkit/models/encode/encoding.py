"""Texts to vectors in batches of similar length: the work behind `Model.encode`."""

from __future__ import annotations

import logging
import weakref
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from tqdm import tqdm

from embedkit.errors import NonFiniteError, UserError
from embedkit.models.execution.fused import for_encoding, has_hooks
from embedkit.models.inputs.inputs import Inputs
from embedkit.models.inputs.tokens import check_texts, resolve_prompt
from embedkit.system.threads import by_threads

if TYPE_CHECKING:
    from embedkit.models.base import Model, Progress
    from embedkit.models.encode.arguments import EncodeSettings

_log = logging.getLogger(__name__)
_TOLD: weakref.WeakSet[Any] = weakref.WeakSet()
"""Tokenizers whose truncated texts have been reported; a model shares its own with its forms in other types."""
# Texts that are tokenised and sorted together: bounds the memory for token ids, long enough for even batches.
WINDOW = 65_536
BATCH_TOKENS = {"cpu": 2_048, "mps": 16_384, "cuda": 65_536}
FEWEST_TOKENS, MOST_WORKERS = 512, 8


def encode(model: Model, inputs: Sequence[str], settings: EncodeSettings, first: int = 0) -> np.ndarray:
    """Vectors of texts, float32 (N, D); see `Model.encode`. Messages count the inputs from `first`.

    Examples
    --------
    >>> from embedkit.data.builtin.sentences import tokenizer
    >>> from embedkit.models import StaticEncoder
    >>> from embedkit.models.encode.arguments import EncodeSettings
    >>> encode(StaticEncoder(tokenizer(), dim=8), ["one text", "another"], EncodeSettings(truncate_dim=4)).shape
    (2, 4)
    """
    texts = check_texts(inputs, first)
    dim = kept_dim(model, settings.truncate_dim)
    prompt = resolve_prompt(settings.prompt, model.prompts, model.default_prompt)
    number = {text: k for k, text in enumerate(dict.fromkeys(texts))}  # each distinct text once
    distinct = list(number)
    unit = model.normalize if settings.normalize is None else settings.normalize
    vectors = np.empty((len(distinct), dim), dtype=np.float32)
    was_training = model.training
    model.eval()
    try:
        with reporter(settings.progress, len(distinct), "texts") as show, torch.inference_mode():
            quick, workers = for_encoding(model), workers_for(model)
            for start in range(0, len(distinct), WINDOW):
                window = model.prepare(distinct[start : start + WINDOW], prompt)
                _tell_cut(model, window)
                budget = settings.batch_tokens or batch_budget(model.device.type, window.tokens)
                batches = list(token_batches(window.costs, budget, settings.batch_size))

                @torch.inference_mode()  # of the thread that runs it
                def work(index: np.ndarray, window: Inputs = window) -> tuple[np.ndarray, np.ndarray]:
                    return index, _vectors(quick, window.select(index), dim, unit)

                for index, part in by_threads(work, batches, workers):
                    rows = start + index
                    vectors[rows] = part
                    bad = first_not_finite(part)
                    if bad is not None:
                        raise not_finite(first + texts.index(distinct[rows[bad]]))
                    show(len(index))
    finally:
        model.train(was_training)
    if len(distinct) == len(texts):
        return vectors
    return vectors[np.fromiter((number[text] for text in texts), np.int64, len(texts))]


def batch_budget(device: str, tokens: int) -> int:
    """Tokens of a batch at most, by the kind of device and the tokens of all texts.

    Few texts are cut into smaller batches on a CPU, so that all threads have one. It does not depend on their number:
    vectors are equal bit for bit with any number of workers.

    Examples
    --------
    >>> from embedkit.models.encode.encoding import batch_budget
    >>> batch_budget("cpu", 1_000_000), batch_budget("cpu", 8_000), batch_budget("cuda", 8_000)
    (2048, 1000, 65536)
    """
    most = BATCH_TOKENS.get(device, BATCH_TOKENS["cuda"])
    return most if device != "cpu" else min(most, max(FEWEST_TOKENS, tokens // 8))


def workers_for(model: Model) -> int:
    """How many batches run at once: on a CPU one a thread of torch, at most `MOST_WORKERS`.

    One, where batches have to come one after the other: beside hooks, which see them, and for positions that are
    scaled by the texts seen so far.

    Examples
    --------
    >>> from embedkit.data.builtin.sentences import tokenizer
    >>> from embedkit.models import StaticEncoder
    >>> from embedkit.models.encode.encoding import workers_for
    >>> workers_for(StaticEncoder(tokenizer(), dim=8)) in range(1, 9)
    True
    """
    if model.device.type != "cpu" or torch.is_autocast_enabled("cpu"):
        return 1
    for module in model.modules():
        rope = str(getattr(module, "rope_type", ""))
        if has_hooks(module) or "dynamic" in rope or "longrope" in rope:
            return 1
    return min(torch.get_num_threads(), MOST_WORKERS)


def _tell_cut(model: Model, window: Inputs) -> None:
    """Say once for a model that texts reach its length: what stands behind has no part in their vectors."""
    full = 0 if model.fixed_length else int((window.costs >= model.max_length).sum())
    own = getattr(model.text_model, "_tokenize", model)
    if full and own not in _TOLD:
        _TOLD.add(own)
        message = (
            "%d of %d texts fill all %d tokens of the model and are cut there; give shorter pieces, or raise max_length"
        )
        _log.warning(message, full, len(window), model.max_length)


def token_batches(costs: np.ndarray, budget: int, most: int | None = None) -> Iterator[np.ndarray]:
    """Indices of batches of at most `budget` tokens and `most` inputs, longest inputs first: memory runs out at once or
    never.

    Examples
    --------
    >>> import numpy as np
    >>> from embedkit.models.encode.encoding import token_batches
    >>> [batch.tolist() for batch in token_batches(np.array([2, 5, 3]), budget=5)]
    [[1], [2, 0]]
    """
    order = np.argsort(-costs, kind="stable")
    total = np.cumsum(costs[order])
    first = 0
    while first < len(order):
        before = total[first - 1] if first else 0
        last = int(np.searchsorted(total, before + budget, side="right"))
        last = max(last, first + 1)
        last = last if most is None else min(last, first + most)
        yield order[first:last]
        first = last


def _vectors(model: Model, batch: Inputs, dim: int, unit: bool) -> np.ndarray:
    out = model(batch.to(model.device))[:, :dim].float()
    if unit:
        out = torch.nn.functional.normalize(out, dim=-1)
    return out.cpu().numpy()


def kept_dim(model: Model, truncate_dim: int | None) -> int:
    """The number of coordinates that `encode` returns.

    Raises
    ------
    UserError
        When `truncate_dim` is no size that the model can give.

    Examples
    --------
    >>> from embedkit.data.builtin.sentences import tokenizer
    >>> from embedkit.models import StaticEncoder
    >>> model = StaticEncoder(tokenizer(), dim=8)
    >>> kept_dim(model, None), kept_dim(model, 4)
    (8, 4)
    """
    if truncate_dim is None:
        return model.dim
    if not 0 < truncate_dim <= model.dim:
        raise UserError(f"truncate_dim is {truncate_dim}", remedy=f"the model has vectors of size {model.dim}")
    return truncate_dim


def first_not_finite(vectors: np.ndarray) -> int | None:
    """The first row of `vectors` (n, D) with NaN or infinite values, None where there is none.

    Examples
    --------
    >>> first_not_finite(np.array([[0.5, 1.0], [np.nan, 0.0]]))
    1
    """
    finite = np.isfinite(vectors).all(axis=1)
    return None if finite.all() else int(np.argmin(finite))


def not_finite(place: int, item: Any = None) -> NonFiniteError:
    """The error for an input at `place`; of `item`, a vector or a sequence, where this has such values itself.

    Examples
    --------
    >>> print(not_finite(3))
    inputs[3]: the vector has NaN or infinite values; check the weights, or load the model with dtype float32
    """
    remedy = "check the weights, or load the model with dtype float32"
    if isinstance(item, np.ndarray) and not np.isfinite(item).all():
        remedy = "so has this input: mend it, or leave it out"
    return NonFiniteError("the vector has NaN or infinite values", where=f"inputs[{place}]", remedy=remedy)


class _Reporter:
    """Counts the inputs that are done and shows it; made by `reporter`. Its bar ends with the `with` block, so that an
    error has a line of its own."""

    def __init__(self, report: Callable[[int, int], None] | None, bar: tqdm[Any] | None, total: int) -> None:
        self._report, self._bar, self._count, self._total = report, bar, 0, total

    def __call__(self, count: int) -> None:
        """`count` more are done."""
        self._count += count
        if self._report is not None:
            self._report(self._count, self._total)
        if self._bar is not None:
            self._bar.update(count)
            if self._count == self._total:
                self._bar.close()

    def __enter__(self) -> _Reporter:
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.close()


def reporter(progress: Progress, total: int | None, noun: str) -> _Reporter:
    """What shows `progress`: True a bar, a callable is called with (done, total), where 0 stands for no known total.

    Examples
    --------
    >>> with reporter(lambda done, total: print(done, "of", total), 5, "texts") as show:
    ...     show(2)
    ...     show(3)
    2 of 5
    5 of 5
    """
    has_bar = progress is True and total != 0
    bar = tqdm(total=total, unit=f" {noun}", desc="encode") if has_bar else None
    return _Reporter(progress if callable(progress) else None, bar, total or 0)
