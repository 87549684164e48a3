"""Parameter groups by name pattern, AdamW, the learning-rate schedule, clipping, and a running mean of weights."""

from __future__ import annotations

import fnmatch
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from embedkit.config.recipe import GroupConfig, TrainConfig
from embedkit.errors import RecipeError
from embedkit.training.optim.layer_decay import layer_factors
from embedkit.training.optim.moments import CompactAdamW, first_moments


@dataclass
class ParameterGroup:
    """Parameters that share a learning rate (at its peak) and weight decay.

    `names` are those of `Bundle.named_parameters`; the order decides nothing.

    Examples
    --------
    >>> module = nn.ModuleDict({"model": nn.Linear(3, 2)})
    >>> assign_groups(module, TrainConfig(epochs=1, lr=1e-3, weight_decay=0.01))[0]
    ParameterGroup(name='model', lr=0.001, weight_decay=0.01, names=['model.weight'], count=6)
    """

    name: str
    lr: float
    weight_decay: float
    names: list[str]
    count: int = 0


def assign_groups(
    module: nn.Module, config: TrainConfig, undecayed: frozenset[str] = frozenset(), shipped: bool = False
) -> list[ParameterGroup]:
    """Groups of all trainable parameters; those that a group freezes stop wanting gradients.

    The first pattern of ``train.groups`` that matches a name decides. Vectors and scalars (biases, norms, temperatures)
    and the names in `undecayed` get no weight decay unless their group asks for one, nor do parameters of which only
    some rows are trained (their attribute ``undecayed``). Patterns of a `shipped` recipe may match nothing: they are
    for every model that it may be given.

    Raises
    ------
    RecipeError
        When a pattern of a user's matches nothing, or nothing is left to train.

    Examples
    --------
    >>> module = nn.ModuleDict({"model": nn.Linear(3, 2), "parts": nn.Linear(2, 2)})
    >>> config = TrainConfig(epochs=1, lr=1e-3, groups=[{"pattern": "parts.*", "lr": 1e-2}])
    >>> [(group.name, group.lr, group.names) for group in assign_groups(module, config)]
    [('model', 0.001, ['model.weight', 'model.bias']), ('parts.*', 0.01, ['parts.weight', 'parts.bias'])]
    """
    groups: dict[tuple[str, float, float], ParameterGroup] = {}
    matched: set[str] = set()
    rules = {n: next((g for g in config.groups if fnmatch.fnmatchcase(n, g.pattern)), None)
             for n, _ in module.named_parameters()}  # fmt: skip
    factors = _layer_factors(rules)
    for name, parameter in module.named_parameters():
        rule = rules[name]
        if rule is not None:
            matched.add(rule.pattern)
            if rule.frozen:
                parameter.requires_grad_(False)
        if not parameter.requires_grad:
            continue
        label, lr, decay = _group_key(name, parameter, rule, config, undecayed)
        key = (label, lr * factors.get(name, 1.0), decay)
        group = groups.setdefault(key, ParameterGroup(*key, names=[]))
        group.names.append(name)
        group.count += parameter.numel()
    for rule in config.groups:
        if rule.pattern not in matched and not shipped:
            raise RecipeError(
                f"pattern {rule.pattern!r} matches no parameter", where="train.groups",
                remedy="`embedkit plan` lists the names; patterns are shell style, as in '*.layer.0.*'",
            )  # fmt: skip
    if not groups:
        raise RecipeError("every parameter is frozen", where="train.groups", remedy="leave something to train")
    return list(groups.values())


def _layer_factors(rules: dict[str, GroupConfig | None]) -> dict[str, float]:
    """Factors on the learning rate of the parameters whose group has a ``layer_decay``."""
    factors: dict[str, float] = {}
    for pattern in dict.fromkeys(rule.pattern for rule in rules.values() if rule is not None):
        own = [name for name, rule in rules.items() if rule is not None and rule.pattern == pattern]
        rule = rules[own[0]]
        if rule is not None and rule.layer_decay is not None:
            factors |= layer_factors(own, rule.layer_decay)
    return factors


def _group_key(
    name: str, parameter: nn.Parameter, rule: GroupConfig | None, config: TrainConfig, undecayed: frozenset[str]
) -> tuple[str, float, float]:
    lr = rule.lr if rule is not None and rule.lr is not None else config.lr
    if rule is not None and rule.weight_decay is not None:
        decay = rule.weight_decay
    else:
        free = parameter.ndim < 2 or name in undecayed or getattr(parameter, "undecayed", False)
        decay = 0.0 if free else config.weight_decay
    label = rule.pattern if rule is not None else name.split(".", 1)[0]
    return label, lr, decay


def schedule_factor(step: int, total: int, config: TrainConfig) -> float:
    """The factor on the peak learning rate at optimiser step `step` (0-based) of `total`: a pure function.

    Warm-up rises linearly; then "linear" falls to 0, "cosine" falls along half a cosine, "constant" stays. With
    ``warmup_start: zero`` the factors are those of transformers' schedules, whose first update has a rate of 0.

    Examples
    --------
    >>> [schedule_factor(step, 10, TrainConfig(epochs=1, warmup=3)) for step in range(4)]
    [0.25, 0.5, 0.75, 1.0]
    >>> [schedule_factor(step, 10, TrainConfig(epochs=1, warmup=2, warmup_start="zero")) for step in range(3)]
    [0.0, 0.5, 1.0]
    """
    warmup = config.warmup if config.warmup >= 1 else config.warmup * total
    if config.warmup_start == "zero":
        warmup = math.ceil(warmup)
    if step < warmup:
        return step / warmup if config.warmup_start == "zero" else (step + 1) / (warmup + 1)
    if config.schedule == "constant":
        return 1.0
    progress = min(1.0, (step - warmup) / max(1.0, total - warmup))
    return 1.0 - progress if config.schedule == "linear" else 0.5 * (1.0 + math.cos(math.pi * progress))


class Optimiser:
    """AdamW over named groups, whose state is named tensors (no pickle) and whose update can be refused on the device.

    Decoupled weight decay (Loshchilov and Hutter 2019). With `can_skip` an update is skipped on the device, without
    waiting for it; sharded parameters have no fused update and cannot do that.

    Examples
    --------
    >>> module = nn.Linear(1, 1, bias=False)
    >>> config = TrainConfig(epochs=1, lr=0.1, max_grad_norm=1.0)
    >>> optimiser = Optimiser(module, assign_groups(module, config), config)
    >>> module.weight.grad = torch.full((1, 1), 4.0)
    >>> norm = optimiser.gradient_norm()
    >>> optimiser.clip(norm)
    >>> norm, module.weight.grad
    (tensor(4.), tensor([[1.0000]]))
    """

    def __init__(self, module: nn.Module, groups: list[ParameterGroup], config: TrainConfig, seed: int = 0) -> None:
        by_name = dict(module.named_parameters())
        self.groups, self.config = groups, config
        self._names = [name for group in groups for name in group.names]
        self._parameters = [by_name[name] for name in self._names]
        settings = [
            {"params": [by_name[n] for n in g.names], "lr": g.lr, "weight_decay": g.weight_decay} for g in groups
        ]
        sharded = any(_is_sharded(p) for p in self._parameters)
        self.can_skip = config.moments == "fp32" and not sharded
        common: dict[str, Any] = {"lr": config.lr, "betas": config.betas, "eps": config.eps}
        self.adamw: torch.optim.Optimizer
        if config.moments != "fp32":
            if sharded:
                raise RecipeError(
                    f"{config.moments} blocks a parameter as a whole, and FSDP shards them", where="train.moments",
                    remedy="launch it without FSDP, or leave train.moments at fp32: each process has its share of it",
                )  # fmt: skip
            self.adamw = CompactAdamW(settings, config.moments, seed, **common)
            return
        way: dict[str, Any] = {"fused": True} if self.can_skip else {"foreach": False}
        self.adamw = torch.optim.AdamW(settings, **common, **way)
        if self.can_skip:  # now, not at the first step, where they would be scattered among freed activations
            for parameter in self._parameters:
                self.adamw.state[parameter] = first_moments(parameter, "fp32")

    def gradient_norm(self) -> Tensor:
        """L2 norm of all gradients, a scalar tensor."""
        norms = [torch.nn.utils.get_total_norm(grads) for grads in self._gradients()]
        whole = [norm.full_tensor() if hasattr(norm, "full_tensor") else norm for norm in norms]
        return torch.stack(whole).norm() if len(whole) > 1 else whole[0]

    def scale_gradients(self, factor: Tensor | float) -> None:
        """Multiply all gradients."""
        for grads in self._gradients():
            torch._foreach_mul_(grads, factor)

    def _gradients(self) -> list[list[Tensor]]:
        """All gradients, sharded ones apart from whole ones, which one operation cannot mix."""
        grads = [p.grad for p in self._parameters if p.grad is not None]
        apart = [[g for g in grads if _is_sharded(g) == sharded] for sharded in (True, False)]
        return [part for part in apart if part]

    def clip(self, norm: Tensor) -> None:
        """Scale gradients so that their norm is at most ``train.max_grad_norm``."""
        if self.config.max_grad_norm is not None:
            self.scale_gradients(torch.clamp(self.config.max_grad_norm / (norm + 1e-6), max=1.0))

    def step(self, factor: float, skip: Tensor | None = None) -> None:
        """Update with every group's learning rate times `factor`; nothing moves where `skip` (device scalar) is 1."""
        for settings, group in zip(self.adamw.param_groups, self.groups, strict=True):
            settings["lr"] = group.lr * factor
            if not self.config.bias_correction:
                self._undo_correction(settings, group)
        if skip is not None:
            self.adamw.found_inf = skip  # type: ignore[attr-defined]
        self.adamw.step()
        self.adamw.zero_grad(set_to_none=True)

    def _undo_correction(self, settings: dict[str, Any], group: ParameterGroup) -> None:
        """Set rate, eps and decay so that torch's update is the uncorrected lr m / (sqrt(v) + eps) + lr decay w."""
        steps = [float(self.adamw.state[p]["step"]) for p in settings["params"] if p in self.adamw.state]
        number = 1.0 + max(steps, default=0.0)
        first, second = (1.0 - beta**number for beta in self.config.betas)
        larger = first / math.sqrt(second)
        settings["lr"] *= larger
        settings["eps"] = self.config.eps / math.sqrt(second)
        settings["weight_decay"] = group.weight_decay / larger

    def state_tensors(self) -> dict[str, Tensor]:
        """First and second moments and step counts as ``NAME/exp_avg`` ..., on the CPU."""
        state = self.adamw.state
        return {
            f"{name}/{key}": whole(value)
            for name, parameter in zip(self._names, self._parameters, strict=True)
            for key, value in _moved(state.get(parameter, {})).items()
        }

    def load_state_tensors(self, tensors: dict[str, Tensor]) -> None:
        """Restore what `state_tensors` gave."""
        by_name = dict(zip(self._names, self._parameters, strict=True))
        kind = self.config.moments
        states: dict[str, dict[str, Tensor]] = {}
        for full, value in tensors.items():
            name, key = full.rsplit("/", 1)
            states.setdefault(name, {})[key] = value
        for name, values in states.items():
            parameter = by_name[name]
            slots = self.adamw.state.get(parameter) or first_moments(parameter.detach(), kind)
            shapes = {key: (tuple(value.shape), value.dtype) for key, value in slots.items()}
            if {key: (tuple(value.shape), value.dtype) for key, value in values.items()} != shapes:
                raise ValueError(f"{name} has other means than {kind} ones of the shape {tuple(parameter.shape)}")
            device = parameter.device
            self.adamw.state[parameter] = {
                key: value.to(slots[key].device) if key == "step" else like(value.to(device), parameter)
                for key, value in values.items()
            }


def _moved(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The state of a parameter, nothing before its first step."""
    return state if state and float(state["step"]) > 0 else {}


def _is_sharded(tensor: Tensor) -> bool:
    return hasattr(tensor, "full_tensor")


def whole(value: Tensor) -> Tensor:
    """The whole of a tensor that FSDP2 may have spread over processes, on the CPU; called on every process.

    Examples
    --------
    >>> whole(torch.ones(2, requires_grad=True))
    tensor([1., 1.])
    """
    full = value.full_tensor() if hasattr(value, "full_tensor") else value
    return full.detach().cpu().contiguous()


def like(value: Tensor, parameter: Any) -> Tensor:
    """`value` spread over processes as `parameter` is; called on every process.

    Examples
    --------
    >>> like(torch.zeros(2), nn.Parameter(torch.ones(2)))  # nothing is sharded in one process
    tensor([0., 0.])
    """
    if not _is_sharded(parameter):
        return value
    from torch.distributed.tensor import distribute_tensor

    return distribute_tensor(value, parameter.device_mesh, parameter.placements)


class RunningMean:
    """Exponential moving average of the trained parameters, for evaluation and export.

    Examples
    --------
    >>> module = nn.Linear(1, 1, bias=False)
    >>> _ = nn.init.zeros_(module.weight)
    >>> ema = RunningMean(module, decay=0.9)
    >>> _ = nn.init.ones_(module.weight)
    >>> ema.update(module)
    >>> ema.state_tensors()
    {'weight': tensor([[0.1000]])}
    """

    def __init__(self, module: nn.Module, decay: float) -> None:
        self.decay = decay
        self.mean = {n: p.detach().clone() for n, p in module.named_parameters() if p.requires_grad}

    def state_tensors(self) -> dict[str, Tensor]:
        """The means, whole, on the CPU."""
        return {name: whole(value) for name, value in self.mean.items()}

    def load_state_tensors(self, tensors: dict[str, Tensor]) -> None:
        """Restore what `state_tensors` gave."""
        if {n: t.shape for n, t in tensors.items()} != {n: t.shape for n, t in self.mean.items()}:
            raise ValueError("other means than those of the trained parameters")
        for name, value in tensors.items():
            self.mean[name].copy_(like(value.to(self.mean[name].device), self.mean[name]))

    @torch.no_grad()
    def update(self, module: nn.Module) -> None:
        """Move the means by ``1 - decay`` towards the parameters."""
        parameters = dict(module.named_parameters())
        for sharded in (True, False):
            names = [n for n, value in self.mean.items() if _is_sharded(value) == sharded]
            if names:
                now = [parameters[n].detach() for n in names]
                torch._foreach_lerp_([self.mean[n] for n in names], now, 1.0 - self.decay)

    def swapped(self, module: nn.Module) -> Iterator[None]:
        """Generator for a context in which the module holds the means."""
        parameters = dict(module.named_parameters())
        weights = {name: parameters[name].detach().clone() for name in self.mean}
        with torch.no_grad():
            for name, value in self.mean.items():
                parameters[name].copy_(value)
        try:
            yield
        finally:
            with torch.no_grad():
                for name, value in weights.items():
                    parameters[name].copy_(value)
