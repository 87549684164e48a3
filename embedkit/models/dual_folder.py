"""Dual encoders in embedkit's own folder: the text tower as a model folder of its own, the image tower beside it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from embedkit.errors import ModelError
from embedkit.models.folder import FolderPlan, inspect

if TYPE_CHECKING:
    from embedkit.models.base import Model
    from embedkit.models.dual import DualEncoder

TEXT, IMAGE, PROJECTIONS = "text", "image", "projections.safetensors"


def write_dual(model: DualEncoder, folder: Path) -> dict[str, Any]:
    """Write both towers and the projections; returns what ``embedkit.json`` holds besides.

    ``text/`` is a complete folder of the text tower alone, ``image/`` holds the weights of the image tower under the
    names of the library that it comes from.
    """
    from embedkit.models.adapters import has_adapters, merged_state
    from embedkit.models.saving import write_own

    (folder / TEXT).mkdir()
    write_own(model.text, folder / TEXT)
    (folder / IMAGE).mkdir()
    encoder = model.image.encoder
    write_tensors(merged_state(encoder) if has_adapters(encoder) else encoder.state_dict(), folder / IMAGE)
    write_tensors(model.projections.state_dict(), folder, PROJECTIONS)
    return {key: value for key, value in model.spec().items() if key != "text"}


def write_tensors(state: dict[str, Any], folder: Path, name: str = "model.safetensors") -> None:
    """Write tensors as a safetensors file; shared ones are written twice."""
    from safetensors.torch import save_file

    tensors = {key: tensor.detach().cpu().contiguous().clone() for key, tensor in state.items()}
    save_file(tensors, folder / name, metadata={"format": "pt"})


def read_dual(plan: FolderPlan) -> Model:
    """The dual encoder of an inspected embedkit folder.

    Raises
    ------
    ModelError
        When a tower is missing or its weights do not fit.
    """
    from embedkit.models.dual import DualEncoder, Projection
    from embedkit.models.image_towers import build_image_tower
    from embedkit.models.loading import assemble, read_safetensors
    from embedkit.models.preprocess import Preprocess

    spec = dict(plan.spec)
    text = assemble(inspect(plan.root / TEXT))
    image = build_image_tower(spec["image"])
    load_exactly(image.encoder, read_safetensors(plan.root / IMAGE / "model.safetensors"), plan.root / IMAGE)
    projections = {name: Projection(**settings) for name, settings in spec["projections"].items()}
    model = DualEncoder(
        text, image, projections["text"], projections["image"], Preprocess.of(spec["preprocess"]), scale=spec["scale"],
        bias=spec["bias"], normalize=spec["normalize"],
    )  # fmt: skip
    load_exactly(model.projections, read_safetensors(plan.root / PROJECTIONS), plan.root / PROJECTIONS)
    return model


def load_exactly(module: Any, tensors: dict[str, Any], where: Path) -> None:
    """Load a state dict whose names and shapes must be those of `module`.

    Raises
    ------
    ModelError
        Naming the first tensor that does not fit.
    """
    wanted = {name: tuple(tensor.shape) for name, tensor in module.state_dict().items()}
    found = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    wrong = sorted(set(wanted.items()) ^ set(found.items()))
    if wrong:
        name = wrong[0][0]
        said = f"{name} is {found.get(name, 'missing')}, expected {wanted.get(name, 'nothing')}"
        raise ModelError(f"the weights do not fit ({said})", where=str(where), remedy="is the folder complete?")
    module.load_state_dict(tensors)
