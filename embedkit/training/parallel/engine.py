"""What accelerate gives a run: processes, device, trackers, and sharding of large models (FSDP2).

Gradients of replicated parameters are summed by `World.sum_gradients`, once a step, so a replicated model is not
wrapped. A model sharded by FSDP2 sums its own gradients in the last backward pass of a step.
"""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from embedkit.config.recipe import Recipe
from embedkit.errors import RecipeError
from embedkit.models.base import Model
from embedkit.system.processes import join
from embedkit.training.loop.step import Bundle
from embedkit.training.monitor.trackers import Trackers, open_trackers
from embedkit.training.parallel.distributed import World
from embedkit.training.parallel.memory import keep_freed_memory

if TYPE_CHECKING:
    from embedkit.training.state.state import RunState


class Engine:
    """The accelerate side of a run.

    Examples
    --------
    >>> from embedkit.config.recipe_io import load_recipe
    >>> engine = Engine(load_recipe("quickstart", smoke=True), Path("run"))
    >>> engine.world.size, engine.sharded
    (1, False)
    """

    def __init__(self, recipe: Recipe, folder: Path) -> None:
        from accelerate import Accelerator
        from accelerate.utils import parse_flag_from_env

        join(cpu=parse_flag_from_env("ACCELERATE_USE_CPU"))
        trackers = list(recipe.train.trackers)
        self.accelerator = Accelerator(log_with=trackers or None, project_dir=str(folder) if trackers else None)
        self.world = World(self.accelerator.device)
        if self.world.device.type == "cpu":
            keep_freed_memory()
        self._trackers = False
        self._use_length = recipe.model.use_max_length
        self._sharded: Any = None
        self._plain: nn.Module | None = None

    def start_trackers(self, recipe: Recipe) -> None:
        """Open the run in its trackers. It is called last: a run that fails before its first step has nothing there."""
        if recipe.train.trackers:
            self._trackers = True
            open_trackers(self.accelerator, dict(_settings("", recipe.model_dump(mode="json"))))

    @property
    def trackers(self) -> Trackers:
        """The trackers that are open; none before `start_trackers`."""
        return Trackers(self.accelerator.trackers if self._trackers else [])

    def place(self, bundle: Bundle) -> Bundle:
        """The bundle on the device, equal on every process, its model sharded when launched with FSDP2."""
        bundle.to(self.world.device)
        self._equalise(bundle)
        plugin = self._plugin()
        if plugin is not None:
            if getattr(plugin, "fsdp_version", 1) != 2:
                raise RecipeError("FSDP version 1 is not supported", where="accelerate", remedy="set fsdp_version to 2")
            self._shard(bundle)
        return bundle

    def _plugin(self) -> Any:
        """accelerate's FSDP plugin; on CPUs, where accelerate leaves it out, made from the same launch settings."""
        from accelerate.utils import FullyShardedDataParallelPlugin, parse_flag_from_env

        state = self.accelerator.state
        plugin = getattr(state, "fsdp_plugin", None)
        if plugin is None and self.world.size > 1 and parse_flag_from_env("ACCELERATE_USE_FSDP"):
            plugin = state.fsdp_plugin = FullyShardedDataParallelPlugin()
        return plugin

    def _equalise(self, bundle: Bundle) -> None:
        if self.world.size > 1:
            for tensor in [*bundle.parameters(), *bundle.buffers()]:
                torch.distributed.broadcast(tensor.data, 0)

    def _shard(self, bundle: Bundle) -> None:
        """Shard the transformers encoder inside the model as accelerate's FSDP2 plugin says; the rest is replicated."""
        from accelerate.utils.fsdp_utils import fsdp2_prepare_model
        from torch.distributed.fsdp import FSDPModule

        from embedkit.models.modules.text import TextEncoder

        encoder = bundle.model.backbone
        if not isinstance(encoder, nn.Module):
            raise RecipeError("this model has nothing to shard", where="accelerate", remedy="launch it without FSDP")
        if isinstance(bundle.model, TextEncoder) and bundle.model.way() == "buckets":
            bundle.model.packing = "padded"  # buckets would make another number of passes on each process
        self._plain = copy.deepcopy(bundle.model).cpu() if self.world.is_main else None
        fsdp2_prepare_model(self.accelerator, encoder)
        for module in encoder.modules():
            if isinstance(module, FSDPModule):
                module.set_gradient_divide_factor(1.0)  # gradients are summed, never averaged
                module.set_force_sum_reduction_for_comms(True)  # a plain sum, which gloo has too
        self._sharded = encoder

    @property
    def sharded(self) -> bool:
        """Whether FSDP2 has sharded the encoder: every pass through it communicates."""
        return self._sharded is not None

    def defer_sync(self, deferred: bool) -> None:
        """Whether the coming backward passes of a sharded model keep their gradients to themselves."""
        if self._sharded is not None:
            self._sharded.set_requires_gradient_sync(not deferred)

    @contextlib.contextmanager
    def whole_model(self, model: nn.Module) -> Iterator[nn.Module]:
        """The model as it is used outside of training steps, whole and with its `use_max_length`.

        Weights are shared unless it is sharded. Then the main process gets a copy, which is on the device inside the
        block only; the others take part in the exchange, and get the sharded model, which is of no use to them.
        """
        whole = model if self._sharded is None else self._gathered(model)
        length = self._use_length
        try:
            yield whole if length is None else whole.at_length(None if length == "limit" else length)  # type: ignore[operator]
        finally:
            if self._plain is not None:
                self._plain.to("cpu")

    def _gathered(self, model: nn.Module) -> nn.Module:
        """The plain copy with the weights of now on the main process; `model` itself on the others."""
        weights = {}
        for name, value in model.state_dict().items():
            full = value.full_tensor() if hasattr(value, "full_tensor") else value  # every process takes part
            if self._plain is not None:
                weights[name] = full.detach().cpu()
        if self._plain is None:
            return model
        self._plain.load_state_dict(weights)
        return self._plain.to(self.world.device)

    def save_model(self, model: Model, path: Path, recipe: Recipe, in_use: Callable[[Model], Model]) -> None:
        """Write the folder of what `in_use` makes of the whole model, from the main process."""
        whole: Any
        with self.whole_model(model) as whole:
            if self.world.is_main:
                whole.classifiers = model.classifiers
                in_use(whole).save(path, overwrite=True, recipe=recipe.model_dump(mode="json"))

    def share(self, state: RunState) -> None:
        """Give every process the main process's best evaluation."""
        if self.world.size > 1:
            mine = state.best
            values = [float(mine.value or 0.0), float(mine.step or 0), float(mine.step is not None)]
            best = torch.tensor(values, dtype=torch.float64, device=self.world.device)
            torch.distributed.broadcast(best, 0)
            if best[2] > 0:
                state.best.value, state.best.step = float(best[0]), int(best[1])

    def close(self) -> None:
        """End the trackers."""
        if self._trackers:
            self.accelerator.end_training()


def _settings(key: str, value: Any) -> Iterator[tuple[str, str | int | float | bool]]:
    """Dotted key and value of every setting that is given: what trackers list and compare runs by."""
    entries = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for name, item in entries:
        yield from _settings(f"{key}.{name}" if key else str(name), item)
    if isinstance(value, str | int | float):
        yield key, value
