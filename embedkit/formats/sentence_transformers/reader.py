"""sentence-transformers' folders, read without that library."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from embedkit.errors import ModelError, nearest
from embedkit.formats.folder import DUAL_TYPES, FolderPlan, inside, model_type, read_json
from embedkit.formats.registry import FolderReader, readers
from embedkit.formats.sentence_transformers.modules import MODULES, OF_VECTORS, REFUSED, add_module

if TYPE_CHECKING:
    from embedkit.models.modules.dual import DualEncoder

Entry = tuple[str, Path]
"""A module's name and folder."""
MODEL_FILE = "config_sentence_transformers.json"
SIMILARITIES = ("cosine", "dot", "euclidean", "manhattan")


@readers.add("sentence-transformers")
class SentenceTransformersReader(FolderReader):
    """Folders with a ``modules.json``.

    Examples
    --------
    >>> import embedkit
    >>> from embedkit.data.builtin import tokenizer
    >>> from embedkit.models import StaticEncoder
    >>> folder = embedkit.export(StaticEncoder(tokenizer(), dim=4), "words", "sentence-transformers")
    >>> plan = SentenceTransformersReader().plan(folder)
    >>> plan.kind, plan.spec["normalize"]
    ('static', True)
    """

    name, mark, rank = "sentence-transformers", "modules.json", 2

    def plan(self, root: Path) -> FolderPlan:
        """See `FolderReader.plan`."""
        return plan_of_modules(root)

    def plan_of_route(self, root: Path, route: str) -> FolderPlan:
        """See `FolderReader.plan_of_route`."""
        return plan_of_modules(root, route)

    def dual(self, plan: FolderPlan, *, allow_pickle: bool = False) -> DualEncoder:
        """See `FolderReader.dual`."""
        from embedkit.formats.transformers.dual_reader import read

        return read(plan, allow_pickle=allow_pickle)


def plan_of_modules(root: Path, route: str | None = None) -> FolderPlan:
    """The plan of a folder with a ``modules.json``; `route` names one of its Router's routes.

    Raises
    ------
    ModelError
        Modules that embedkit does not have, or in an order that means something else.

    Examples
    --------
    >>> from embedkit.config.recipe_io import load_recipe
    >>> from embedkit.factory import build
    >>> model = build(load_recipe("quickstart").model)
    >>> plan_of_modules(model.save("encoder")).spec
    {'normalize': True, 'max_length': 32, 'pooling': 'mean', 'prompts': {}, 'default_prompt': None}
    """
    plan = FolderPlan(root, root, "text", spec={"normalize": False})
    entries = _entries(root, root, route)
    names = [name for name, _ in entries]
    first = entries[0][1]
    if names[0] == "CLIPModel" or (names[0] == "Transformer" and model_type(_clip_folder(first)) in DUAL_TYPES):
        if names not in (["CLIPModel"], ["CLIPModel", "Normalize"], ["Transformer"], ["Transformer", "Normalize"]):
            raise _order(root, names)
        return _dual(plan, names, first)
    for place, (name, folder) in enumerate(entries):
        choices: tuple[str, ...] | None = ("Transformer", "StaticEmbedding") if place == 0 else None
        if place == 1 and names[0] == "Transformer":
            choices = ("Pooling",)
        if (choices is None) == (name in ("Transformer", "StaticEmbedding", "Pooling")) or name not in (
            choices or names
        ):
            raise _order(root, names)
        add_module(plan, name, folder, last=place == len(entries) - 1)
    if names == ["Transformer"]:
        raise _order(root, names)
    _model_settings(plan)
    return plan


def _order(root: Path, names: list[str]) -> ModelError:
    return ModelError(
        f"modules in the order {', '.join(names)} are not supported", where=str(root / "modules.json"),
        remedy="read are Transformer, Pooling or StaticEmbedding with Dense, LayerNorm, Normalize, Dropout, "
        "SparseAutoEncoder behind them",
    )  # fmt: skip


def _entries(root: Path, folder: Path, route: str | None) -> list[Entry]:
    """The modules that `folder` lists, those of a model within the model and of one route in their place."""
    listing = folder / "modules.json"
    modules = read_json(listing)
    if not isinstance(modules, list) or not modules or not all(isinstance(m, dict) and "type" in m for m in modules):
        raise ModelError("is not a list of modules", where=str(listing), remedy="write the folder again")
    entries: list[Entry] = []
    for module in modules:
        name = _name(str(module["type"]), listing)
        place = inside(folder, str(module.get("path", "")))
        if name == "SentenceTransformer":
            entries += _entries(root, place, route)
        elif name in ("Router", "Asym"):
            entries += _route(place, route)
            route = None
        else:
            entries.append((name, place))
    if route is not None and folder == root:
        raise ModelError("has no routes", where=str(listing), remedy="leave route out")
    return entries


def _name(kind: str, listing: Path) -> str:
    """The module's class, when it is one of sentence-transformers' that embedkit reads."""
    name = kind.rpartition(".")[2]
    if kind.startswith("sentence_transformers.") and name in REFUSED:
        reason, remedy = REFUSED[name]
        raise ModelError(f"module {name} is not supported: {reason}", where=str(listing), remedy=remedy)
    if not kind.startswith("sentence_transformers."):
        raise ModelError(f"module {kind!r} is not known: code of its own, which is not run", where=str(listing),
                         remedy=OF_VECTORS)  # fmt: skip
    if name not in MODULES:
        raise ModelError(
            f"module {kind!r} is not known", where=str(listing), remedy=f"known modules: {', '.join(sorted(MODULES))}"
        )
    return name


def _route(folder: Path, route: str | None) -> list[Entry]:
    """The modules of one route of a Router; of the only one where all routes are the same modules."""
    path = next((p for p in (folder / "router_config.json", folder / "config.json") if p.is_file()), None)
    if path is None:
        raise ModelError("file is missing", where=str(folder / "router_config.json"), remedy="copy the folder again")
    router = read_json(path)
    routes: dict[str, list[str]] = router["structure"]
    if route is None and len({tuple(parts) for parts in routes.values()}) == 1:
        route = next(iter(routes))
    if route is None:
        raise ModelError(
            f"its inputs go through different modules ({', '.join(routes)})", where=str(path),
            remedy=f"load one of them: embedkit.load(FOLDER, route={next(iter(routes))!r}), or write it as a folder: "
            f"embedkit export FOLDER OUTPUT --route {next(iter(routes))}",
        )  # fmt: skip
    if route not in routes:
        raise ModelError(f"has no route {route!r}", where=str(path), remedy=nearest(route, routes))
    return [(_name(str(router["types"][part]), path), inside(folder, part, path.name)) for part in routes[route]]


def _clip_folder(folder: Path) -> Path:
    """The folder of a module's transformers model, a sub-folder in older versions of CLIPModel."""
    below = folder / "0_CLIPModel"
    return below if below.is_dir() and not (folder / "config.json").is_file() else folder


def _dual(plan: FolderPlan, names: list[str], folder: Path) -> FolderPlan:
    """A CLIP model as one module, in the layout of before and after version 5.4."""
    plan.kind, plan.weights = "dual", _clip_folder(folder)
    plan.spec["normalize"] = names[-1] == "Normalize"
    for file in sorted(plan.weights.glob("sentence_*_config.json")):
        settings = read_json(file)
        for kind, entry in (settings.get("modality_config") or {}).items():
            if kind not in ("text", "image") or entry.get("method") != f"get_{kind}_features":
                raise ModelError(
                    f"a {kind} goes through {entry.get('method')!r} of the model",
                    where=str(file),
                    remedy="texts of get_text_features and images of get_image_features are read",
                )
        if settings.get("max_seq_length"):
            plan.spec["max_length"] = int(settings["max_seq_length"])
    _model_settings(plan)
    return plan


def _model_settings(plan: FolderPlan) -> None:
    """Prompts and the rest of config_sentence_transformers.json."""
    path = plan.root / MODEL_FILE
    settings = plan.settings(path)
    settings.pass_over(("__version__",))
    if plan.kind == "static":
        settings.pass_over(("normalize", "max_length"))  # for model2vec: modules.json and the tokenizer say the same
    kind = settings.get("model_type")
    if kind not in (None, "SentenceTransformer") and not (kind == "SparseEncoder" and _is_coded(plan)):
        raise ModelError(f"a {kind} gives no dense vectors of texts", where=str(path), remedy="give an encoder")
    for _, layer in plan.dense:
        if layer.get("kind") == "sparse-code":
            layer["k"] = settings.get("max_active_dims") or layer["k"]
    prompts = settings.get("prompts") or {}
    default = settings.get("default_prompt_name")
    plan.spec["prompts"] = {name: text or "" for name, text in prompts.items()}
    plan.spec["default_prompt"] = default
    if default is not None and default not in prompts:
        raise ModelError(
            f"default_prompt_name {default!r} is none of its prompts", where=str(path), remedy=nearest(default, prompts)
        )
    similarity = settings.get("similarity_fn_name") or "cosine"
    if similarity not in SIMILARITIES:
        raise ModelError(f"unknown similarity_fn_name {similarity!r}", where=str(path),
                         remedy=nearest(similarity, SIMILARITIES))  # fmt: skip
    plan.similarity = similarity
    _truncation(plan, settings.get("truncate_dim"), path)


def _is_coded(plan: FolderPlan) -> bool:
    return any(settings.get("kind") == "sparse-code" for _, settings in plan.dense)


def _truncation(plan: FolderPlan, dim: Any, path: Path) -> None:
    """``truncate_dim``: the first coordinates of the final vector, which is not normalised again."""
    if dim is None:
        return
    if not isinstance(dim, int) or dim < 1:
        raise ModelError(f"truncate_dim is {dim!r}", where=str(path), remedy="give a number of coordinates")
    if plan.kind != "text":
        raise ModelError(
            f"vectors of a {plan.kind} model are cut to {dim} coordinates", where=str(path),
            remedy="take truncate_dim out of the file and pass it to encode",
        )  # fmt: skip
    if plan.spec["normalize"]:
        plan.dense.append((None, {"kind": "unit-length"}))
        plan.spec["normalize"] = False
    plan.dense.append((None, {"kind": "cut", "dim": dim}))
    plan.notes.append(f"vectors have the first {dim} coordinates only, as truncate_dim of the folder says")
