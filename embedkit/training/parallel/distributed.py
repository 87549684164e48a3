"""What processes exchange in a step: embeddings out, their gradients back, and one sum of parameter gradients.

The rule that makes the gradient of a step independent of the number of processes: every process holds the embeddings
of the whole batch as leaves, computes its *share* of the loss from them, and gradients are *summed* over processes,
first those of the embeddings (each goes back to the process that owns the row), then those of the parameters. With one
process every function here is the identity.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import torch
import torch.distributed as dist
from torch import Tensor, nn


class World:
    """The processes of a run, through torch.distributed when it is initialised (accelerate does that).

    Attributes
    ----------
    rank, size : int
        This process and how many there are.
    on_all_reduce : list of callables
        Called with the flat buffer before each sum of parameter gradients; for counting and measuring.

    Examples
    --------
    >>> world = World()  # one process
    >>> world.rank, world.size, world.counts(3), world.any(False)
    (0, 1, [3], False)
    >>> world.gather(torch.tensor([[1.0, 2.0]]), counts=[1])
    tensor([[1., 2.]])
    """

    def __init__(self, device: torch.device | str = "cpu") -> None:
        self.device = torch.device(device)
        running = dist.is_available() and dist.is_initialized()
        self.rank = dist.get_rank() if running else 0
        self.size = dist.get_world_size() if running else 1
        self.on_all_reduce: list[Callable[[Tensor], None]] = []

    @property
    def is_main(self) -> bool:
        """Whether this process writes files and prints."""
        return self.rank == 0

    def counts(self, count: int) -> list[int]:
        """`count` of every process."""
        return [row[0] for row in self.tables([count])]

    def tables(self, values: Sequence[int]) -> list[list[int]]:
        """The `values` of every process, equally many on each, in one exchange."""
        if self.size == 1:
            return [list(values)]
        mine = torch.tensor(values, dtype=torch.int64, device=self.device)
        every = [torch.empty_like(mine) for _ in range(self.size)]
        dist.all_gather(every, mine)
        return [[int(value) for value in row] for row in torch.stack(every).tolist()]

    def gather(self, tensor: Tensor, counts: Sequence[int]) -> Tensor:
        """Rows of all processes in order of rank: (n_rank, ...) -> (sum of counts, ...). Carries no gradient."""
        if self.size == 1:
            return tensor.detach()
        most = max(counts)
        block = tensor.new_zeros((most, *tensor.shape[1:]))
        block[: len(tensor)] = tensor.detach()
        every = [torch.empty_like(block) for _ in range(self.size)]
        dist.all_gather(every, block)
        return torch.cat([part[:count] for part, count in zip(every, counts, strict=True)])

    def own_sum(self, gathered: Tensor, counts: Sequence[int]) -> Tensor:
        """The rows this process owns, summed over what every process holds for them; the way back of `gather`."""
        if self.size == 1:
            return gathered
        mine, tail = counts[self.rank], gathered.shape[1:]
        width = tail.numel()
        received = gathered.new_empty((self.size * mine, *tail))
        dist.all_to_all_single(
            received.view(-1), gathered.contiguous().view(-1),
            [mine * width] * self.size, [count * width for count in counts],
        )  # fmt: skip
        return received.view(self.size, mine, *tail).sum(0)

    def sum_gradients(self, parameters: Iterable[nn.Parameter]) -> None:
        """Replace every gradient by its sum over processes, in one all-reduce of one flat buffer a data type."""
        if self.size == 1:
            return
        replicas = [p for p in parameters if p.requires_grad and not _is_sharded(p)]
        by_type: dict[torch.dtype, list[nn.Parameter]] = {}
        for parameter in replicas:
            by_type.setdefault(parameter.dtype, []).append(parameter)
        for parameters_of_type in by_type.values():
            self._sum_flat(parameters_of_type)

    def _sum_flat(self, parameters: list[nn.Parameter]) -> None:
        grads = [p.grad if p.grad is not None else torch.zeros_like(p) for p in parameters]
        flat = torch.cat([grad.reshape(-1) for grad in grads])
        for hook in self.on_all_reduce:
            hook(flat)
        dist.all_reduce(flat)
        start = 0
        for parameter in parameters:
            stop = start + parameter.numel()
            parameter.grad = flat[start:stop].view_as(parameter)
            start = stop

    def sum(self, values: Tensor) -> Tensor:
        """Sum of a small tensor over processes."""
        if self.size > 1:
            values = values.detach().clone()
            dist.all_reduce(values)
        return values

    def any(self, flag: bool) -> bool:
        """Whether the flag is set on any process; all processes get the same answer."""
        return bool(self.sum(torch.tensor(float(flag), device=self.device)) > 0)

    def barrier(self) -> None:
        """Wait for all processes."""
        if self.size > 1:
            self.sum(torch.zeros((), device=self.device))


def _is_sharded(parameter: nn.Parameter) -> bool:
    """Whether FSDP2 owns the parameter: its backward pass already sums (reduce-scatters) the gradient."""
    return hasattr(parameter, "full_tensor")
