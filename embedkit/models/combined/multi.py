"""Any number of named towers into one space."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import Tensor, nn

from embedkit.errors import DataError, ModelError, UserError, nearest
from embedkit.models.base import Model
from embedkit.models.combined.members import CombinedModel
from embedkit.models.inputs.images import is_image
from embedkit.models.inputs.towers import Named, TowerInputs

if TYPE_CHECKING:
    from embedkit.models.encode.arguments import EncodeSettings
    from embedkit.models.inputs.preprocess import Preprocess


class MultiEncoder(CombinedModel):
    """Inputs of several modalities, under names of the user's own, to vectors in one space.

    Each tower is a model of any kind: a text or static encoder, an encoder of vectors, a dual encoder for images, or a
    chain of one of them and a projection.

    Parameters
    ----------
    towers : mapping of str to Model
        Name -> tower; all have vectors of one size.
    normalize : bool
        Unit vectors from `encode`.
    similarity_fn_name : str
        See `Model`.

    Raises
    ------
    ModelError
        No tower, or vectors of several sizes.

    Examples
    --------
    >>> from embedkit.data.builtin.sentences import tokenizer
    >>> from embedkit.models import FeatureEncoder, StaticEncoder
    >>> towers = {"caption": StaticEncoder(tokenizer(), dim=4), "sound": FeatureEncoder(width=9, dim=4)}
    >>> model = MultiEncoder(towers)
    >>> model.encode(["a dog"], tower="caption").shape, model.encode(np.ones((3, 9)), tower="sound").shape
    ((1, 4), (3, 4))
    """

    kind = "multi"

    def __init__(
        self, towers: Mapping[str, Model], normalize: bool = True, similarity_fn_name: str = "cosine"
    ) -> None:  # fmt: skip
        super().__init__()
        sizes = {name: tower.dim for name, tower in towers.items()}
        if len(set(sizes.values())) != 1:
            listing = ", ".join(f"{name} {size}" for name, size in sizes.items())
            raise ModelError(f"towers of one space have vectors of one size, not {listing or 'none'}",
                             where="model.modalities", remedy="set model.dim")  # fmt: skip
        for name in towers:
            if hasattr(nn.ModuleDict, name):
                raise ModelError(f"a modality cannot be called {name!r}, which means something to torch",
                                 where=f"model.modalities.{name}", remedy="give it another name")  # fmt: skip
        self.towers = nn.ModuleDict(towers)
        self.normalize, self.similarity_fn_name = normalize, similarity_fn_name
        texts = next((tower for tower in towers.values() if tower.tokenizer is not None), None)
        self.tokenizer = None if texts is None else texts.tokenizer
        self.prompts = {} if texts is None else texts.prompts
        self.default_prompt = None  # each tower has its own

    @property
    def names(self) -> list[str]:
        """The names of the towers."""
        return list(self.towers)

    @property
    def models(self) -> list[Model]:
        """The towers."""
        return [tower for tower in self.towers.values() if isinstance(tower, Model)]

    def tower(self, name: str) -> Model:
        """The tower of a modality, a model of its own.

        Raises
        ------
        UserError
            There is none of this name.
        """
        if name not in self.towers:
            raise UserError(f"the model has no tower {name!r}", where="tower", remedy=nearest(name, self.names))
        tower = self.towers[name]
        assert isinstance(tower, Model)
        return tower

    @property
    def dim(self) -> int:  # type: ignore[override]
        """Size of the shared space."""
        return self.models[0].dim

    @property
    def training_dim(self) -> int:
        """See `Model.training_dim`."""
        return self.models[0].training_dim

    @property
    def preprocess(self) -> Preprocess | None:  # type: ignore[override]
        """How an image becomes pixels: that of the first tower that reads images."""
        return next((tower.preprocess for tower in self.models if tower.preprocess is not None), None)

    @property
    def max_length(self) -> int:
        """Tokens of an input that every tower reads."""
        return min(tower.max_length for tower in self.models)

    def tower_of(self, inputs: Any) -> str:
        """The name of the only tower that can read such inputs.

        Raises
        ------
        DataError
            Several can, or none.
        """
        first = inputs[0] if isinstance(inputs, list | tuple | np.ndarray) and len(inputs) else inputs
        first = inputs if isinstance(first, int | float | np.number) else first  # one vector
        fitting = [name for name, tower in zip(self.names, self.models, strict=True) if _reads(tower, first)]
        if len(fitting) == 1:
            return fitting[0]
        which = "none of the towers reads" if not fitting else f"the towers {', '.join(fitting)} read"
        raise DataError(f"{which} such inputs ({type(first).__name__})", where="tower",
                        remedy=f"name one, {' or '.join(map(repr, fitting or self.names))}")  # fmt: skip

    def encode(  # type: ignore[override]
        self, inputs: Any, prompt: str | None = None, normalize: bool | None = None, *more: Any,
        tower: str | None = None, **settings: Any,
    ) -> Any:  # fmt: skip
        """Vectors of one modality's inputs, see `Model.encode`.

        Parameters
        ----------
        inputs
            As the tower takes them; or a list of `Named`, of several towers.
        tower : str, optional
            Its name; found by the type of the inputs where one tower alone reads such.
        prompt, normalize, more, settings
            See `Model.encode`.

        Raises
        ------
        UserError, DataError
            No such tower; or several read such inputs and none is named.
        """
        if normalize is None and "normalize_embeddings" not in settings:
            normalize = self.normalize
        if tower is None and isinstance(inputs, list) and inputs and all(isinstance(one, Named) for one in inputs):
            return self._of_several(inputs, (prompt, normalize, *more), settings)
        name = self.tower_of(inputs) if tower is None else tower
        return self.tower(name).encode(inputs, prompt, normalize, *more, **settings)

    def _of_several(self, inputs: Sequence[Named], positional: Sequence[Any], settings: dict[str, Any]) -> np.ndarray:
        places: dict[str, list[int]] = {}
        for place, one in enumerate(inputs):
            places.setdefault(one.tower, []).append(place)
        parts = {
            name: np.asarray(self.encode([inputs[i].value for i in own], *positional, tower=name, **settings))
            for name, own in places.items()
        }
        first = next(iter(parts.values()))
        whole = np.empty((len(inputs), first.shape[1]), first.dtype)
        for name, own in places.items():
            whole[own] = parts[name]
        return whole

    def encode_items(self, items: list[Any], settings: EncodeSettings) -> np.ndarray:
        """Vectors of inputs that one tower alone reads; see `Model.encode_items`."""
        return self.tower(self.tower_of(items)).encode_items(items, settings)

    def prepare(self, inputs: Sequence[Any], prompt: str | None = None) -> TowerInputs:  # type: ignore[override]
        """Inputs of the only tower that reads such; see `prepare_tower`."""
        return self.prepare_tower(self.tower_of(inputs), inputs, prompt)

    def prepare_tower(self, name: str, inputs: Sequence[Any], prompt: str | None = None) -> TowerInputs:
        """What a tower makes of inputs, with its name; safe to call from several threads."""
        return TowerInputs(name, self.tower(name).prepare(inputs, prompt))

    def forward(self, inputs: TowerInputs, **settings: Any) -> Tensor:
        """Vectors (N, D) of one tower's inputs, not normalised; settings are those of its forward pass."""
        return self.tower(inputs.tower)(inputs.inner, **settings)  # type: ignore[no-any-return]

    def example_input(self) -> Any:
        """An input of the first tower."""
        return self.models[0].example_input()

    def gradient_checkpointing_enable(self) -> None:
        """See `Model`; towers without layers run as they are."""
        self._for_some("gradient_checkpointing_enable")

    def compile_layers(self) -> None:
        """See `Model`; towers without layers run as they are."""
        self._for_some("compile_layers")

    def _for_some(self, name: str) -> None:
        count = 0
        for tower in self.models:
            with contextlib.suppress(ModelError):
                getattr(tower, name)()
                count += 1
        if not count:
            getattr(super(), name)()

    def own_spec(self) -> dict[str, Any]:
        """See `CombinedModel.own_spec`."""
        return {"modalities": self.names, "normalize": self.normalize, **self._similarity_spec()}


def named_tower(model: Model, name: str) -> Model:
    """One tower of a model with named towers, with vectors as `MultiEncoder.encode` gives them.

    Raises
    ------
    UserError
        The model has no named towers, or none of this name.

    Examples
    --------
    >>> from embedkit.models import FeatureEncoder
    >>> named_tower(MultiEncoder({"sound": FeatureEncoder(width=9)}), "sound").input_width
    9
    """
    if not isinstance(model, MultiEncoder):
        raise UserError(f"a {model.kind} model has no named towers", where="tower", remedy="leave it out")
    tower = model.tower(name)
    tower.normalize = model.normalize
    return tower


def _reads(tower: Model, value: Any) -> bool:
    """Whether a tower can read an input of this type."""
    if tower.input_width is not None:
        sized = isinstance(value, np.ndarray | Tensor | list | tuple)
        return sized and np.shape(value) == (tower.input_width,)
    if is_image(value):
        return tower.preprocess is not None
    return isinstance(value, str) and tower.tokenizer is not None
