"""Scores of pairs of texts: by a cross-encoder, another sequence classifier, or a function of the user."""

from __future__ import annotations

import inspect
import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from embedkit.errors import NonFiniteError, UserError, nearest
from embedkit.evaluation.core.stats import Array
from embedkit.registry import load_object

if TYPE_CHECKING:
    import torch

    from embedkit.formats.transformers.classifier import Classifier

_WINDOW = 8_192  # pairs that are tokenized and put in the order of their length together
_OBJECT = re.compile(r"[\w./~-]+(\.py)?:[A-Za-z_]\w*")


class Scorer(Protocol):
    """What scores pairs of texts.

    Attributes
    ----------
    name : str
        How messages and reports call it.
    labels : tuple of str
        Names of the outputs; one or none where there is one score a pair.

    Examples
    --------
    >>> scorer = load_scorer(lambda texts_a, texts_b: [len(a) + len(b) for a, b in zip(texts_a, texts_b)])
    >>> scorer(["a", "ab"], ["abc", "d"]).tolist()
    [4.0, 3.0]
    """

    name: str
    labels: tuple[str, ...]

    def __call__(
        self, texts_a: Sequence[str], texts_b: Sequence[str], progress: Callable[[int, int], None] | None = None
    ) -> Array:
        """float32 (N,), or (N, L) where there are several outputs and none was chosen, in the order of the pairs.

        Equal pairs are scored once. The batch size has no say but for float32's rounding.
        """

    def identity(self) -> str | None:
        """What decides the scores, as one text; None where it cannot be told."""


def load_scorer(
    spec: Any, *, device: str | torch.device | None = None, dtype: str | torch.dtype | None = None,
    label: str | int | None = None, activation: str | None = None, batch_size: int = 32, max_length: int | None = None,
    revision: str | None = None, trust_remote_code: bool = False, allow_pickle: bool = False,
) -> Scorer:  # fmt: skip
    """What scores pairs of texts.

    Parameters
    ----------
    spec : str, Path or object
        A folder or hub id of a sentence-transformers CrossEncoder or of a transformers sequence classifier; the name
        of a function, ``my.py:score`` or ``package.module:score``; a function ``(texts_a, texts_b) -> (N,)`` or
        (N, L); or an object with ``predict(list of pairs)``, such as a loaded CrossEncoder.
    device, dtype : optional
        Of a folder; the best device and float32 when None.
    label : str or int, optional
        Name or number of the one output to give, of several. A folder that names no activation of its own gives that
        output's share by softmax; what a function or an object returns is taken as it is.
    activation : str, optional
        ``identity``, ``sigmoid``, ``softmax`` or ``tanh`` in place of the folder's.
    batch_size : int
        Pairs that a model gets at a time.
    max_length : int, optional
        Tokens of a pair; the folder's when None.
    revision, trust_remote_code, allow_pickle
        As in `embedkit.load`.

    Raises
    ------
    UserError
        It is nothing of that kind, a setting has no effect, or a label is not known.
    ModelError
        The folder cannot be read.

    Examples
    --------
    >>> _ = Path("my.py").write_text("def score(a, b): return [float(x == y) for x, y in zip(a, b)]")
    >>> load_scorer("my.py:score")(["a cat", "a dog"], ["a cat", "a fish"]).tolist()
    [1.0, 0.0]
    """
    options = {"device": device, "dtype": dtype, "activation": activation, "max_length": max_length,
               "revision": revision, "trust_remote_code": trust_remote_code or None,
               "allow_pickle": allow_pickle or None}  # fmt: skip
    if isinstance(batch_size, bool) or not isinstance(batch_size, int) or batch_size < 1:
        raise UserError(f"{batch_size!r} is no whole number from 1 on", where="batch_size", remedy="give 32")
    is_text = isinstance(spec, str | Path)
    if is_folder(spec):
        return _of_folder(spec, label, batch_size, options)
    extra = next((name for name, value in options.items() if value is not None), None)
    if extra is not None:
        raise UserError("it is for a model in a folder, and the scorer is a function or an object", where=extra,
                        remedy="leave it out")  # fmt: skip
    function = load_object(str(spec), "scorer") if is_text else spec
    name = str(spec) if is_text else getattr(spec, "__name__", type(spec).__name__)
    return FunctionScorer(function, name, label, batch_size)


def is_folder(spec: Any) -> bool:
    """Whether a scorer is named by a folder or hub id, not by a Python object or its name.

    Examples
    --------
    >>> is_folder("cross-encoder/ms-marco-MiniLM-L6-v2"), is_folder("my.py:score"), is_folder(len)
    (True, False, False)
    """
    return isinstance(spec, str | Path) and (_OBJECT.fullmatch(str(spec)) is None or Path(spec).is_dir())


def _of_folder(spec: str | Path, label: str | int | None, batch_size: int, options: dict[str, Any]) -> Scorer:
    from embedkit.formats.transformers.classifier import ACTIVATIONS, Classifier, read_classifier

    activation = options["activation"]
    if activation is not None and activation not in ACTIVATIONS:
        raise UserError(f"{activation!r} is no activation", where="activation", remedy=nearest(activation, ACTIVATIONS))
    model = read_classifier(
        spec, revision=options["revision"], trust_remote_code=bool(options["trust_remote_code"]),
        allow_pickle=bool(options["allow_pickle"]),
    )  # fmt: skip
    if isinstance(model, Classifier):
        keep = {name: options[name] for name in ("device", "dtype", "activation", "max_length")}
        return CrossEncoderScorer(model, str(spec), label=label, batch_size=batch_size, **keep)
    for name in ("dtype", "activation", "max_length"):
        if options[name] is not None:
            raise UserError(f"{spec} is read by sentence-transformers, which has settings of its own", where=name,
                            remedy="leave it out")  # fmt: skip
    from embedkit.formats.loading import best_device

    return FunctionScorer(model.to(best_device(options["device"])), str(spec), label, batch_size)  # type: ignore[attr-defined]


class _Pairs(ABC):
    """What all scorers share: equal pairs once, checks of what comes back, the choice of one output."""

    def __init__(self, name: str, labels: tuple[str, ...], label: str | int | None) -> None:
        self.name, self.labels = name, labels
        self._label = label
        self.column: int | None = None
        if label is not None and labels:
            self._choose(len(labels))

    def _choose(self, count: int) -> None:
        """Find the one output that was asked for, of `count`."""
        label = self._label
        if label is None or self.column is not None:
            return
        if isinstance(label, str) and label.isdecimal() and label not in self.labels:
            label = int(label)
        if isinstance(label, int):
            if not 0 <= label < count:
                raise UserError(f"it has {count} outputs, none of the number {label}", where=self.name,
                                remedy=f"give a label from 0 to {count - 1}")  # fmt: skip
            self.column = label
        else:
            lower = {name.lower(): place for place, name in enumerate(self.labels)}
            if str(label).lower() not in lower:
                raise UserError(f"has no label {label!r}", where=self.name, remedy=nearest(str(label), self.labels)
                                if self.labels else "give its number, from 0")  # fmt: skip
            self.column = lower[str(label).lower()]
        self.labels = (self.labels[self.column],) if self.labels else ()

    @abstractmethod
    def identity(self) -> str | None:
        """See `Scorer`."""

    @abstractmethod
    def _scores(self, texts_a: Sequence[str], texts_b: Sequence[str]) -> Any:
        """The scores of different pairs, still unchecked."""

    def __call__(
        self, texts_a: Sequence[str], texts_b: Sequence[str], progress: Callable[[int, int], None] | None = None
    ) -> Array:
        """See `Scorer`."""
        if len(texts_a) != len(texts_b):
            raise UserError(f"{len(texts_a):,} texts and {len(texts_b):,} are no pairs", where=self.name,
                            remedy="give as many of one as of the other")  # fmt: skip
        place_of: dict[tuple[str, str], int] = {}
        places = [place_of.setdefault(pair, len(place_of)) for pair in zip(texts_a, texts_b, strict=True)]
        pairs, parts = list(place_of), []
        for start in range(0, len(pairs), _WINDOW):
            window = pairs[start : start + _WINDOW]
            scores = self._scores([a for a, _ in window], [b for _, b in window])
            parts.append(self._check(scores, window))
            if progress is not None:
                progress(start + len(window), len(pairs))
        if not parts:
            return np.empty(0, dtype=np.float32)
        return np.concatenate(parts)[places]

    def _check(self, output: Any, pairs: Sequence[tuple[str, str]]) -> Array:
        """The scores of some pairs as float32 (n,) or (n, L)."""
        if hasattr(output, "detach"):
            output = output.detach().cpu().float().numpy()
        try:
            scores = np.asarray(output, dtype=np.float32)
        except (TypeError, ValueError) as error:
            raise UserError(f"returned {type(output).__name__}, no scores", where=self.name,
                            remedy="return one number for each pair") from error  # fmt: skip
        if scores.ndim not in (1, 2) or len(scores) != len(pairs) or not scores.size:
            raise UserError(f"returned the shape {scores.shape} for {len(pairs):,} pairs", where=self.name,
                            remedy="return one number for each pair, or one row of numbers")  # fmt: skip
        if scores.ndim == 2 and scores.shape[1] == 1:
            scores = scores[:, 0]
        finite = np.isfinite(scores.reshape(len(scores), -1)).all(axis=1)
        if not finite.all():
            first = pairs[int(np.argmin(finite))]
            raise NonFiniteError(f"gives NaN or infinity for {' | '.join(text[:40] for text in first)!r}",
                                 where=self.name, remedy="look at this pair")  # fmt: skip
        if scores.ndim == 2:
            self._choose(scores.shape[1])
            return scores if self.column is None else np.ascontiguousarray(scores[:, self.column])
        if self._label is not None:
            raise UserError("it gives one score a pair", where=f"label {self._label}", remedy="leave it out")
        return scores


class CrossEncoderScorer(_Pairs):
    """Scores by a sequence classifier that reads both texts together.

    Pairs are put in the order of their number of tokens, so that batches hold little padding. Equal to
    sentence-transformers' ``CrossEncoder.predict`` (Reimers & Gurevych 2019, arXiv 1908.10084) for its folders.

    Parameters
    ----------
    classifier : Classifier
        See `embedkit.formats.transformers.classifier.read_classifier`.
    name : str
        How messages call it.
    label, batch_size, device, dtype, activation, max_length
        See `load_scorer`.

    Examples
    --------
    >>> from transformers import BertConfig, BertForSequenceClassification
    >>> from embedkit.data.builtin import tokenizer
    >>> words = tokenizer()
    >>> small = BertConfig(hidden_size=8, num_hidden_layers=1, num_attention_heads=2, vocab_size=len(words),
    ...                    num_labels=1)
    >>> BertForSequenceClassification(small).save_pretrained("cross")
    >>> _ = words.save_pretrained("cross")
    >>> scorer = load_scorer("cross", device="cpu")
    >>> scorer(["a red lamp"], ["a huge house"]).shape
    (1,)
    """

    def __init__(
        self, classifier: Classifier, name: str, *, label: str | int | None = None, batch_size: int = 32,
        device: str | torch.device | None = None, dtype: str | torch.dtype | None = None,
        activation: str | None = None, max_length: int | None = None,
    ) -> None:  # fmt: skip
        from embedkit.formats.loading import as_dtype, best_device

        count = len(classifier.labels)
        if label is not None and count == 1:
            raise UserError("it gives one score a pair", where=f"label {label}", remedy="leave it out")
        super().__init__(name, classifier.labels, label)
        self._tokenizer, self._batch_size = classifier.tokenizer, batch_size
        self._max_length = self._length(max_length, classifier.max_length)
        self._activation = activation or classifier.activation
        if activation is None and label is not None and classifier.activation == "identity":
            self._activation = "softmax"
        self.device = best_device(device)
        self._model = classifier.model.to(device=self.device, dtype=as_dtype(dtype))

    def identity(self) -> str | None:
        """See `Scorer`."""
        from embedkit.evaluation.core.provenance import weights_hash

        facts = (weights_hash(self._model), self._activation, self._max_length, self._batch_size, self.column,
                 str(self.device))  # fmt: skip
        return repr(facts)

    def _length(self, value: int | None, limit: int) -> int:
        if value is None:
            return limit
        if not 4 <= value <= limit:
            raise UserError(f"{value} is not from 4 to {limit}", where="max_length", remedy="give another number")
        return value

    def _scores(self, texts_a: Sequence[str], texts_b: Sequence[str]) -> Any:
        import torch

        from embedkit.formats.transformers.classifier import activate

        ids = self._tokenizer(list(texts_a), list(texts_b), truncation="longest_first", max_length=self._max_length)
        order = sorted(range(len(texts_a)), key=lambda place: -len(ids["input_ids"][place]))
        outputs: list[Any] = [None] * len(order)
        with torch.inference_mode():
            for start in range(0, len(order), self._batch_size):
                places = order[start : start + self._batch_size]
                features = {name: [rows[place] for place in places] for name, rows in ids.items()}
                batch = self._tokenizer.pad(features, return_tensors="pt").to(self.device)
                logits = self._model(**batch).logits.float()
                for place, row in zip(places, activate(logits, self._activation).cpu().numpy(), strict=True):
                    outputs[place] = row
        return np.stack(outputs)


class FunctionScorer(_Pairs):
    """Scores by a function of two lists of texts, or by an object with ``predict``.

    Parameters
    ----------
    function : callable or object
        ``(texts_a, texts_b) -> (N,)`` or (N, L), or an object whose ``predict`` gets a list of pairs.
    name : str
        How messages call it.
    label : str or int, optional
        The one output to give, of several.
    batch_size : int
        For ``predict``.

    Examples
    --------
    >>> FunctionScorer(lambda a, b: np.ones((len(a), 2)), "ones", label=1)(["x"], ["y"]).tolist()
    [1.0]
    """

    def __init__(self, function: Any, name: str, label: str | int | None = None, batch_size: int = 32) -> None:
        predict = getattr(function, "predict", None)
        if isinstance(function, type) or not (callable(predict) or callable(function)):
            remedy = "give a function (texts_a, texts_b) -> scores, or an object with predict"
            raise UserError(f"this {type(function).__name__} does not score pairs", where=name, remedy=remedy)
        config = getattr(getattr(function, "config", None), "id2label", None) or {}
        labels = tuple(str(config[place]) for place in sorted(config)) if len(config) > 1 else ()
        super().__init__(name, labels, label)
        self._function, self._predict, self._batch_size = function, predict, batch_size

    def identity(self) -> str | None:
        """See `Scorer`: that of a function is its name and the file that it stands in."""
        if not inspect.isfunction(self._function):
            return None
        try:
            text = inspect.getsource(inspect.getmodule(self._function) or self._function)
        except (OSError, TypeError):  # typed in, or built in C
            return None
        return repr((self._function.__qualname__, self._function.__defaults__, text))

    def _scores(self, texts_a: Sequence[str], texts_b: Sequence[str]) -> Any:
        pairs = [list(pair) for pair in zip(texts_a, texts_b, strict=True)]
        try:
            if not callable(self._predict):
                return self._function(list(texts_a), list(texts_b))
            if _takes(self._predict, "batch_size"):
                return self._predict(pairs, batch_size=self._batch_size)
            return self._predict(pairs)
        except UserError:
            raise
        except Exception as error:  # the user's code can raise anything
            raise UserError(f"failed on {len(pairs):,} pairs ({type(error).__name__}: {error})", where=self.name,
                            remedy="mend the function, which gets two lists of texts") from error  # fmt: skip


def _takes(function: Callable[..., Any], name: str) -> bool:
    try:
        parameters = inspect.signature(function).parameters
    except (TypeError, ValueError):  # built in C
        return False
    return name in parameters or any(one.kind is one.VAR_KEYWORD for one in parameters.values())
