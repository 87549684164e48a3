"""The contract of a method: which views of a row, which extra parts, which objective, what stays at inference.

The trainer knows no paper; a method knows no training loop. Before the first step `adapt` may change the model (what it
adds is saved with it) and `parts` makes modules that are trained beside it. One optimiser step then runs (see
`embedkit.training.loop.step`):

1. `views` makes named inputs of this process's rows, `prepare` their tokens;
2. `embed` turns each chunk of a view into numbers (n, K): the encoder's vectors, or anything else of a row,
   such as the sum of its masked-word losses (gradient cache);
3. these outputs of all processes, or what `exchange` makes of them, are gathered; `project` makes of them the
   embeddings that the objective sees, through parts that need the whole batch if it wants (a BatchNorm is exact for any
   number of chunks and processes there);
4. the objective and `terms` turn them into this process's share of the loss;
5. `local_terms` adds, chunk by chunk, losses of single rows that read an embedding (a conditional discriminator);
6. gradients flow back through the cached outputs into the encoder;
7. once the weights have moved, `after_step` advances what the parts keep.

A method object keeps no state: everything that changes is a parameter or a buffer of a part, and so in checkpoints.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from embedkit.config.settings import checked
from embedkit.data.schema.contract import Contract
from embedkit.errors import RecipeError, nearest
from embedkit.registry import Registry, derived_from
from embedkit.views.base import View

if TYPE_CHECKING:
    from torch import Tensor, nn

    from embedkit.config.model import ModelConfig
    from embedkit.config.recipe import GuideConfig
    from embedkit.data import TrainingRows
    from embedkit.data.schema.targets import TargetFacts
    from embedkit.models.base import Model
    from embedkit.models.inputs.inputs import Inputs
    from embedkit.models.modules.patches import PatchTokens
    from embedkit.objectives.base import ObjectiveBatch
    from embedkit.views.image import Transform

Row = Mapping[str, Any]


class Method:
    """Base class of methods; a subclass is one readable file with the paper in its docstring.

    The arguments of its constructor are its settings, checked against their annotations (`embedkit.config.settings`).

    Class attributes
    ----------------
    paper : str
        Authors, year, venue, section.
    contract : Contract
        Roles of the rows.
    objective : dict or None
        The objective when the recipe names none; None for a method whose `terms` are all its loss.

    Examples
    --------
    >>> class Echo(Method):
    ...     def views(self, rows, random):
    ...         return {name: View([row["anchor"] for row in rows], [0]) for name in ("anchor", "positive")}
    >>> list(Echo().views([{"anchor": "a cat"}], np.random.default_rng))
    ['anchor', 'positive']
    >>> Echo().objective
    {'name': 'infonce', 'temperature': 0.05}
    """

    paper: ClassVar[str] = ""
    contract: ClassVar[Contract] = Contract()
    objective: ClassVar[dict[str, Any] | None] = {"name": "infonce", "temperature": 0.05}

    def __init_subclass__(cls, **settings: Any) -> None:
        super().__init_subclass__(**settings)
        if "__init__" in cls.__dict__:
            cls.__init__ = checked(cls.__init__, "method")  # type: ignore[method-assign]

    @property
    def provides(self) -> frozenset[str]:
        """Names of embeddings that exist whatever roles the rows have."""
        return frozenset({"anchor"})

    reads: ClassVar[frozenset[str]] = frozenset()
    """Roles that the method's own terms read, besides those that its views ask the rows for."""

    reads_guide: ClassVar[bool] = False
    """Whether the method itself reads the guide's vectors, whatever its objective does."""

    widths: ClassVar[Mapping[str, int]] = {}
    """Embedding -> size of its vectors in units of the others', where it is not 1; any number above 1 says "more"."""

    sizes: Mapping[str, int] = {}
    """Embedding -> size of its vectors, where the method's settings decide it for some of them."""

    guided: frozenset[str] = frozenset()
    """Embeddings besides views of which `project` gives a guide's vectors too."""

    anchors_a_row: int = 1
    """Anchors that the objective sees of each row."""

    ema: float | None = None
    """Decay of the guide where it is a running mean of the model; set by the trainer before `parts` is called."""

    followed: ClassVar[tuple[str, ...]] = ()
    """Parts that a running mean follows beside the encoder, where `project_guide` needs them (a projector)."""

    guide_parts: tuple[str, ...] = ()
    """Those of `followed` that the guide of this run has; set by the trainer."""

    guide_views: frozenset[str] | None = None
    """Views whose guide's vectors the objective reads, where the trainer has found out."""

    trained_views: frozenset[str] | None = None
    """Views whose embeddings get a gradient from the objective, where the trainer has found out."""

    gives: frozenset[str] = frozenset()
    """Roles that the method itself gives each row, whatever the data have: "group" (draws, or pseudo labels)."""

    row_groups: int | None = None
    """Groups of equal size that a batch is divided into by place, for a method that `gives` "group"."""

    shares_draws: bool = False
    """Whether rows of one group are changed by the same random numbers; set by the trainer for its objective."""

    @property
    def embedding_size(self) -> int | None:
        """Size of the embeddings that the objective sees, where the method's settings decide it."""
        return None

    @property
    def feature_size(self) -> int:
        """Numbers of the role ``features``."""
        return 1

    def embedded(self, roles: frozenset[str]) -> frozenset[str]:
        """Names of the embeddings that the objective sees of rows with these roles."""
        return self.provides | (roles & {"anchor", "positive", "negatives"})

    def use_guide(self, guide: GuideConfig | None) -> None:
        """Take note of the recipe's guide, None for none, before anything is built.

        Raises
        ------
        RecipeError
            A running mean is to cover a part that the method does not have; several guides, and one is read.
        """
        if guide is not None and guide.models and self.reads_patches:
            raise RecipeError("the method compares patches of one guide", where="guide.models",
                              remedy="give one, as guide.model")  # fmt: skip
        if guide is None or guide.ema is None:
            return
        self.ema = guide.ema
        for name in guide.parts or ():
            if name not in self.followed:
                raise RecipeError(
                    f"the method has no part {name!r} that a running mean could follow", where="guide.parts",
                    remedy=nearest(name, self.followed) if self.followed else "leave guide.parts out",
                )  # fmt: skip
        self.guide_parts = self.followed if guide.parts is None else tuple(guide.parts)

    def use_model(self, config: ModelConfig) -> None:
        """Take note of the recipe's model before anything is built: names of modalities, say.

        Raises
        ------
        RecipeError
            The method cannot train such a model.
        """

    def objective_of(self, config: dict[str, Any]) -> dict[str, Any]:
        """The objective as it is built, from that of the recipe or the method's own; empty for none."""
        return config

    def check_data(self, rows: TrainingRows) -> None:
        """Refuse training rows of which the method can make nothing; called once, before a model is read.

        Raises
        ------
        DataError
            Says what the rows lack, all of them.
        """

    def guide_dim(self, dim: int) -> int:
        """Size of the guide's vectors as the objective sees them, from that of its encoder's."""
        return dim

    transform: Transform | None = None
    """Random changes of the images of a view, for methods that read images."""

    listed_views: frozenset[str] = frozenset()
    """Further views ("view3" ...) that the recipe asks for, so that something has to read them."""

    gives_patches: bool = True
    """Whether the patches of its images can be read by a method beside it: they pass through the image tower."""

    view_sizes: frozenset[int] = frozenset()
    """Sides of the square images of views that are not as large as the model's."""

    def picture_side(self, side: int) -> int:
        """Pixels that the shorter side of a decoded picture must keep, so that crops of it stay sharp, where the
        model's own preprocessing needs `side`."""
        return math.ceil(side * (1.0 if self.transform is None else self.transform.margin))

    takes_parts: ClassVar[bool] = True
    """Whether a text view may be cut into parts, whose vectors are averaged before `project`."""

    caches_images: bool = False
    """Whether the vectors of all images are computed by the locked image tower before the first step; rows then have
    them as ``features``, and the key of the image (bytes) as ``image``."""

    def adapt(self, model: Model) -> None:
        """Change the model before training: freeze, add prompts or vocabulary. It is saved with what is added here.

        Called once, under a random state that depends on the recipe's seed only; again when a run is resumed, before
        the weights are read.
        """

    def notes(self, model: Model) -> list[str]:
        """Lines that are shown when a run starts: what of the model is used, and how, that one may not expect."""
        return []

    def notes_of_rows(self, model: Model, rows: Sequence[Row]) -> list[str]:
        """Lines that are shown when a run starts, on what the model makes of the first rows.

        Raises
        ------
        DataError
            The method can do nothing with such rows.
        """
        return []

    def check_rows(self, rows: Sequence[Row]) -> None:
        """Refuse rows of which the method can make nothing; called with a few training rows, before a model is read.

        Raises
        ------
        DataError
            Says what such rows lack.
        """

    def check_patches(self, grid: tuple[int, int]) -> None:
        """Refuse settings that fit no image of so many patches down and across, where the recipe says how many a
        model's image has.

        Raises
        ------
        RecipeError
            All or none of them would be hidden, or regions are smaller.
        """

    def check_tower(self, tower: Any) -> None:
        """Refuse an image tower that lacks what is read of it; called before a model is loaded where the tower's shape
        is known without its weights (it has none then, they are on the device "meta"), and again when it is there.

        Raises
        ------
        ModelError
            It has no patches, none that can be hidden, or leaves some out.
        """

    def prompt_of(self, model: Model, role: str) -> str | None:
        """The prompt, by name or text, that texts of a role get in training; None for the model's default."""
        return None

    def parts(self, model: Model) -> nn.ModuleDict:
        """Extra modules, kept in checkpoints and left out of the saved model. ``model.training_dim`` is D."""
        from torch import nn

        return nn.ModuleDict()

    def fit_guide(self, parts: nn.ModuleDict, dim: int) -> None:
        """Add parts that read the guide's vectors, whose size is `dim`; called once, when there is a guide."""

    def embedding_dim(self, model: Model) -> int:
        """Size of the embeddings that the objective sees."""
        return model.training_dim

    start_rows: int = 0
    """How many training rows, the first ones, `learn_start` looks at."""

    def learn_start(self, model: Model, parts: nn.ModuleDict, rows: Sequence[Row]) -> None:
        """Set what parts start with from some rows, before the first step; called where `start_rows` is not 0, with a
        model that is on its device and adapted, and parts that are not. Rows with images come decoded, in batches: it
        is called for each. Processes take over the result of the first."""

    def keep(self, model: Model, parts: nn.ModuleDict) -> None:
        """Put into the model what of the parts is used with it; called before it is saved, on its final weights."""

    def in_use(self, model: Model, parts: nn.ModuleDict) -> Model:
        """What is scored and saved: `model`, or a model that holds it and encoders of the parts."""
        return model

    def views(self, rows: Sequence[Row], random: Callable[[int], np.random.Generator]) -> dict[str, View]:
        """Named inputs of these rows.

        ``random(i)`` is the generator of row i, a pure function of (seed, epoch, step, place of the row in the whole
        batch): what a method draws does not depend on the number of processes. ``random(-1)`` is one of the whole
        batch, a pure function of seed and step (mixed pairs). Draws on tokens come later, from ``inputs.seeds``, which
        are just as pure (`embedkit.models.augment.counter_rng`).
        """
        raise RecipeError(f"{type(self).__name__} has no views of its own", where="method.name",
                          remedy="put it beside another method: auxiliary: [{name: ..., weight: 1.0}]")  # fmt: skip

    def outline(self, rows: Sequence[Row], random: Callable[[int], np.random.Generator]) -> dict[str, View]:
        """The views of invented rows, to see which roles they read: `views` without what takes long or reads files."""
        return self.views(rows, random)

    def beside(self, views: Mapping[str, View]) -> dict[str, View]:
        """Views of this method as an auxiliary of another one that has these `views`; by default it cannot be one."""
        raise RecipeError(f"{type(self).__name__} is no auxiliary method", remedy="use it by itself")

    turns: int = 1
    """Optimiser steps on each batch; terms see which one it is, from 0, as ``batch.turn``."""

    def use_main(self, main: Method) -> None:
        """As an auxiliary: take note of the method beside it, before anything is built.

        Raises
        ------
        RecipeError
            It lacks what this one shares with it.
        """

    guides_own_views: ClassVar[bool] = False
    """As an auxiliary that reads patches: whether it needs what the guide makes of the view that it learns from."""

    shares_parts: bool = False
    """As an auxiliary that reads patches: whether its parts are given with those of the main method, as ``main``."""

    reads_main: ClassVar[bool] = False
    """As an auxiliary: whether its terms see the main method's outputs and batch, beside those of its own views."""

    @property
    def contract_beside(self) -> Contract:
        """Roles of the rows as an auxiliary."""
        return self.contract

    def learn_targets(self, facts: Mapping[str, TargetFacts]) -> None:
        """What the rows say of targets, by role: called once, when the rows are open and before `adapt`."""

    def targets(self, rows: Sequence[Row]) -> dict[str, np.ndarray]:
        """Numbers of these rows, (rows,) or (rows, K) each, for terms: those of all processes are ``batch.targets``."""
        return {}

    def before_main(self, model: Any, inputs: Any) -> Any:
        """As an auxiliary: what the main method's `embed` reads of its `inputs`; by default all as it is."""
        return inputs

    def prepare(self, model: Model, name: str, view: View) -> Inputs:
        """Tokens or pixels of a view, one input for each of ``view.inputs``; runs in background threads, for images
        on pieces of a view."""
        return prepare_view(model, view)

    def embed(self, model: Any, parts: nn.ModuleDict, inputs: Any, **settings: Any) -> Tensor:
        """What one chunk of a view goes through: (n, K), row i a function of input i and the parameters only.

        `settings` are the view's. Views of equal settings have equal K; others may differ. Randomness comes from
        torch's generators (as dropout does) or from ``inputs.seeds``: the chunk may be computed twice.
        """
        return model(inputs, **settings)

    def embed_guide(self, encoder: Any, parts: nn.ModuleDict, inputs: Any) -> Tensor:
        """What the guide makes of one chunk of a view: (n, K), without gradient; its encoder's vectors by default.

        `parts` are the method's parts with the running means that the guide has in place of those it follows
        (`with_means`).
        """
        return encoder(inputs)  # type: ignore[no-any-return]

    reads_patches: ClassVar[bool] = False
    """As an auxiliary: whether it reads the vectors of patches of the main method's images, through `patch_columns`."""

    inner_blocks: int = 0
    """With `reads_patches`: how many blocks before the last one it reads the patches of, too."""

    def patch_columns(self, patches: PatchTokens, parts: nn.ModuleDict, inputs: Any) -> Tensor:
        """What a term needs of the patches of one chunk of images: (n, K), like what `embed` gives.

        With `reads_patches`, called in the main method's own pass through the tower.
        """
        raise TypeError(f"{type(self).__name__} does not define patch_columns")

    def guide_columns(self, patches: PatchTokens, parts: nn.ModuleDict, inputs: Any) -> Tensor:
        """`patch_columns` of what the guide makes of the images, without gradient."""
        return self.patch_columns(patches, parts, inputs)

    shared_texts: frozenset[str] = frozenset()
    """Views of texts whose tokens every process gets of the whole batch, as ``batch.texts``."""

    def cover(self, inputs: Any, parts: nn.ModuleDict) -> tuple[Tensor, Tensor] | None:
        """Patches (n, P) of the images that the tower shall not see, and the mask token that stands there; None for
        none. With `reads_patches` this holds for the main method's pass too."""
        return None

    def exchange(
        self, outputs: dict[str, Tensor], owner: Mapping[str, Tensor], parts: nn.ModuleDict, guide: bool = False
    ) -> dict[str, Tensor]:  # fmt: skip
        """What other processes get of this process's outputs, or of its guide's; by default all of them.

        Outputs that are large and that only terms of single rows read (vectors of patches) stay here: give what the
        others need of them, under any names. `project` and `terms` see what is returned, gathered over processes, and
        this process's outputs as ``batch.own``, the guide's as ``batch.own_guide``. `owner` says for each name the row,
        among this process's, of each output. Gradients go back through this function; it draws nothing.
        """
        return outputs

    def project(
        self, outputs: dict[str, Tensor], batch: ObjectiveBatch, parts: nn.ModuleDict
    ) -> dict[str, Tensor]:  # fmt: skip
        """The embeddings that the objective sees, from the gathered outputs of the whole batch, name -> (N, K).

        Leave out the names that are no embeddings. For a name that is new, put its owners (and keys) in `batch`. Equal
        on every process: random numbers come from ``batch.generator(...)``.
        """
        return outputs

    def project_guide(
        self, vectors: dict[str, Tensor], batch: ObjectiveBatch, parts: nn.ModuleDict
    ) -> dict[str, Tensor]:  # fmt: skip
        """The guide's vectors as the objective sees them, without gradient, from those of its encoder (gathered);
        `parts` are the running means of `guide_parts`. Called before `project`."""
        return vectors

    def followed_parts(self, parts: nn.ModuleDict) -> dict[str, nn.Module]:
        """The modules among `parts` that the running mean of this run follows."""
        return {name: parts[name] for name in self.guide_parts}

    def with_means(self, parts: Any, means: Mapping[str, Any]) -> Mapping[str, Any]:
        """The parts as the guide sees them: the running means, under the names of `followed_parts`, in their place."""
        return {**parts, **means}

    def terms(
        self, outputs: dict[str, Tensor], embeddings: dict[str, Tensor], batch: ObjectiveBatch, parts: nn.ModuleDict
    ) -> dict[str, Tensor]:
        """Further parts of the loss over gathered outputs and projected embeddings, by name: weighted shares.

        As in an objective, each process returns its share, of the rows ``batch.rows`` or times ``batch.share``.
        """
        return {}

    def local_terms(
        self, name: str, embeddings: Tensor, inputs: Any, batch: ObjectiveBatch, model: Any, parts: nn.ModuleDict
    ) -> dict[str, Tensor]:
        """Further parts of the loss of some inputs of one view, given their projected embeddings (n, D): weighted sums.

        Called for chunks of this process's inputs; what is returned is divided by counts of the whole batch
        (``len(batch.owner[name])``, ``batch.lengths[name]``) already, so that all of it adds up to the loss.
        ``batch.chunk`` says which inputs they are, ``batch.choices`` what `terms` noted. Auxiliaries are called too.
        """
        return {}

    def after_step(
        self, outputs: dict[str, Tensor], embeddings: dict[str, Tensor], batch: ObjectiveBatch, model: Any,
        parts: nn.ModuleDict,
    ) -> None:  # fmt: skip
        """Advance what parts keep between steps, without gradient; equal on every process."""


def prepare_view(model: Model, view: View) -> Inputs:
    """What the tower of a view takes: tokens of texts, pixels of images, feature arrays as they are.

    Examples
    --------
    >>> from embedkit.factory import build
    >>> from embedkit.config.recipe import ModelConfig
    >>> model = build(ModelConfig(kind="static", tokenizer="builtin", dim=4), 0)
    >>> prepare_view(model, View(["a cat", "the dog sleeps"], [0, 1])).costs
    array([4, 8])
    """
    if view.tower == "text":
        return model.prepare(view.inputs, view.prompt)
    from embedkit.views.image import prepare_images

    return prepare_images(model, view.inputs, view.own_shapes)  # type: ignore[return-value]


methods: Registry[type[Method]] = Registry(
    "method", "embedkit.methods", plugins="embedkit.methods",
    adopt=derived_from(
        Method, "method", "derive it from embedkit.methods.Method and define views(rows, random)", defines="views"
    ),
)  # fmt: skip
