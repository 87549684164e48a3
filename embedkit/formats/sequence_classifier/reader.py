"""Sequence classifiers of transformers that embedkit wrote: the encoder, and its head for `model.classify`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from embedkit.errors import ModelError
from embedkit.formats.folder import FolderPlan, model_type, read_json
from embedkit.formats.registry import FolderReader, readers
from embedkit.formats.sequence_classifier.layout import MARK, PLACES

if TYPE_CHECKING:
    from embedkit.models.heads.classifier import TargetHead


@readers.add("sequence-classifier")
class SequenceClassifierReader(FolderReader):
    """Folders of transformers with the mark that embedkit put beside them. Weights that transformers has trained on
    and saved there are the ones that count.

    Examples
    --------
    >>> import embedkit
    >>> from embedkit.config.recipe_io import load_recipe
    >>> from embedkit.factory import build
    >>> from embedkit.models.heads.classifier import TargetHead
    >>> model = build(load_recipe("quickstart", {"model.pooling": "cls"}).model).eval()
    >>> size = model.hidden_size
    >>> model.classifiers = {"tone": TargetHead(size, 2, "class", ["glad", "sad"], hidden=size)}
    >>> folder = embedkit.export(model, "tones", "sequence-classifier", samples=4)
    >>> embedkit.load(folder).classifiers["tone"].classes
    ('glad', 'sad')
    """

    name, mark, rank = "sequence-classifier", MARK, 4

    def plan(self, root: Path) -> FolderPlan:
        """See `FolderReader.plan`."""
        spec = {**read_json(root / MARK)["spec"], "pooling": "cls"}
        return FolderPlan(root, root, "text", spec=spec)

    def classifiers(self, root: Path) -> dict[str, TargetHead]:
        """See `FolderReader.classifiers`."""
        from embedkit.formats.tensors import load_exactly, read_safetensors
        from embedkit.models.heads.classifier import TargetHead, kept

        mark, place = read_json(root / MARK), PLACES.get(model_type(root))
        if place is None:
            raise ModelError(f"a {model_type(root)} classifier is not known", where=str(root / "config.json"),
                             remedy="write the folder again")  # fmt: skip
        tensors: dict[str, Any] = read_safetensors(root / "model.safetensors")
        paths = {f"{place.hidden}.": "layers.0.linear.", f"{place.output}.": "layers.1."}
        own = {
            ours + key.removeprefix(theirs): value
            for theirs, ours in paths.items()
            for key, value in tensors.items()
            if key.startswith(theirs)
        }
        if "layers.1.weight" not in own:
            raise ModelError(f"has no {place.output}.weight", where=str(root), remedy="write the folder again")
        outputs, width = own["layers.1.weight"].shape
        head = TargetHead(width, outputs, mark["kind"], mark["classes"], width, place.activation)
        load_exactly(head, own, root)
        return {mark["target"]: kept(head)}
