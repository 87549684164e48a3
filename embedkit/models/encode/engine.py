"""Engines that encode blocks on other processes and machines: Ray.

Inside ``with engine("ray:2")`` everything that is encoded in blocks (files, indexes, what is mined and scored) goes to
actors that each hold the model. The blocks are those of a call without an engine, so the vectors are the same, bit for
bit on the same kind of machine; they come back to the process that asked for them, which keeps them as ever, so that a
stopped call resumes and nothing is there twice. An actor that dies is started again with the blocks it had.
"""

from __future__ import annotations

import copy
import logging
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, TypeVar

from embedkit.errors import UserError, nearest

if TYPE_CHECKING:
    import numpy as np

    from embedkit.models.base import Model

ENGINES = ("ray",)
_AHEAD = 2  # blocks an actor has at a time: one that it works on, one that waits
_TRIES = 4  # of a block whose actor dies each time
_MEMORY = 2**30  # bytes of blocks on their way, in a Ray that is started here
_log = logging.getLogger(__name__)

Key = TypeVar("Key")
Work = Callable[..., "np.ndarray"]
"""A function of a module, which gets the model and what else it needs, and gives the vectors of a block."""


class RayEngine:
    """Actors of Ray that hold a model.

    Parameters
    ----------
    workers : int, optional
        Actors; one a GPU of the cluster, or else one a CPU, when None. Each has one GPU, or one CPU and one thread.

    Raises
    ------
    UserError
        Ray is not installed, or cannot be reached.

    Examples
    --------
    >>> RayEngine(workers=2).workers
    2
    """

    def __init__(self, workers: int | None = None) -> None:
        try:
            import ray
        except ImportError as error:
            raise UserError(
                "needs the package ray", where="engine ray", remedy="pip install 'embedkit[ray]'"
            ) from error
        self.workers = workers
        self._ray: Any = ray
        self._started_here = False
        self._models: dict[int, tuple[Any, Any, list[Any]]] = {}

    def run(self, model: Model, jobs: Iterable[tuple[Key, Work, tuple[Any, ...]]]) -> Iterator[tuple[Key, np.ndarray]]:
        """Key and vectors of each job, in any order, as they are done.

        Parameters
        ----------
        model : Model
            Shipped to every actor, at its first job.
        jobs : iterable of (key, function, arguments)
            Read as actors become free, so that it may be of any length.

        Raises
        ------
        UserError
            What the function raises, or an actor dies at the same block again and again.
        """
        _, parcel, actors = self._of(model)
        free = deque(actor for _ in range(_AHEAD) for actor in actors)
        flight: dict[Any, tuple[Key, Any]] = {}
        for key, function, arguments in jobs:
            if not free:
                yield self._next(flight, free)
            actor = free.popleft()
            flight[actor.run.remote([parcel], function, arguments)] = key, actor
        while flight:
            yield self._next(flight, free)

    def _next(self, flight: dict[Any, tuple[Key, Any]], free: deque[Any]) -> tuple[Key, np.ndarray]:
        """The result of the first job that is done."""
        [job], _ = self._ray.wait(list(flight), num_returns=1)
        key, actor = flight.pop(job)
        try:
            vectors = self._ray.get(job)
        except self._ray.exceptions.RayTaskError as error:
            for one in (error.cause, error.__cause__):
                if isinstance(one, UserError):
                    raise one from None
            raise
        except self._ray.exceptions.RayError as error:
            reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
            raise UserError(
                f"a worker died at the same block {_TRIES} times ({reason})", where="engine ray",
                remedy="look at its memory, and give the call again: what is done is kept",
            ) from error  # fmt: skip
        free.append(actor)
        return key, vectors

    def _of(self, model: Model) -> tuple[Any, Any, list[Any]]:
        """The model, its place in Ray's store, and its actors."""
        if id(model) not in self._models:
            self._join()
            gpus = float(self._ray.cluster_resources().get("GPU", 0))
            count = self.workers or int(gpus or self._ray.cluster_resources().get("CPU", 1))
            options = {"num_gpus": 1} if gpus >= count else {"num_cpus": 1}
            self._check(count, options)
            actor = self._ray.remote(_Holder).options(max_restarts=-1, max_task_retries=_TRIES - 1, **options)
            parcel = self._ray.put(model if model.device.type == "cpu" else copy.deepcopy(model).cpu())
            self._models[id(model)] = model, parcel, [actor.remote(bool(options.get("num_gpus"))) for _ in range(count)]
        return self._models[id(model)]

    def _join(self) -> None:
        if self._ray.is_initialized():
            return
        quiet = {"logging_level": logging.ERROR, "log_to_driver": False, "include_dashboard": False}
        try:
            self._ray.init(address="auto", logging_level=logging.ERROR, log_to_driver=False)
        except ConnectionError:
            self._ray.init(address="local", num_cpus=self.workers, object_store_memory=_MEMORY, **quiet)
            self._started_here = True
        except Exception as error:  # Ray raises errors of many kinds for a cluster that does not answer
            reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
            raise UserError(f"the cluster cannot be joined ({reason})", where="engine ray",
                            remedy="check RAY_ADDRESS, or unset it to use this machine alone") from error  # fmt: skip

    def _check(self, count: int, options: dict[str, int]) -> None:
        kind = "GPU" if "num_gpus" in options else "CPU"
        there = int(self._ray.cluster_resources().get(kind, 0))
        if count > there:
            raise UserError(f"{count} workers need as many {kind}s, and the cluster has {there}", where="engine ray",
                            remedy=f"--engine ray:{there}")  # fmt: skip

    def close(self) -> None:
        """End the actors, and Ray where it was started here."""
        for _, _, actors in self._models.values():
            for actor in actors:
                self._ray.kill(actor)
        self._models.clear()
        if self._started_here:
            self._ray.shutdown()
            self._started_here = False


class _Holder:
    """An actor: it takes the model at its first block, and once more when it was started again."""

    def __init__(self, on_gpu: bool) -> None:
        self._device, self._model = "cuda" if on_gpu else "cpu", None

    def run(self, parcel: list[Any], function: Work, arguments: tuple[Any, ...]) -> np.ndarray:
        if self._model is None:
            import ray

            self._model = ray.get(parcel[0]).to(self._device).eval()
        return function(self._model, *arguments)


_CURRENT: ContextVar[RayEngine | None] = ContextVar("engine", default=None)


@contextmanager
def engine(name: str | None) -> Iterator[None]:
    """A block in which an engine encodes; None leaves all as it is.

    Parameters
    ----------
    name : str or None
        ``ray``, or ``ray:N`` for N workers. A cluster that RAY_ADDRESS names, or that this machine belongs to, is
        used; otherwise Ray is started on this machine for the time of the block.

    Raises
    ------
    UserError
        There is no such engine, it is not installed, or this is one of several processes.

    Examples
    --------
    >>> with engine("rey"):
    ...     pass
    Traceback (most recent call last):
    ...
    embedkit.errors.UserError: engine: there is no engine 'rey'; did you mean 'ray'?
    """
    if name is None:
        yield
        return
    kind, _, number = name.partition(":")
    if kind not in ENGINES:
        spark = "Spark runs embedkit by mapInPandas: docs/engines.md has the lines" if kind == "spark" else None
        raise UserError(f"there is no engine {kind!r}", where="engine", remedy=spark or nearest(kind, ENGINES))
    if ":" in name and not (number.isdecimal() and int(number) > 0):
        raise UserError(f"{number!r} is no number of workers", where="engine", remedy="write ray, or ray:4")
    from embedkit.system.processes import join

    if join(cpu=True).num_processes > 1:
        raise UserError(
            "an engine has workers of its own", where="engine", remedy="start one process, without torchrun"
        )
    one = RayEngine(int(number) if number else None)
    token = _CURRENT.set(one)
    try:
        yield
    finally:
        _CURRENT.reset(token)
        one.close()


def run_jobs(model: Any, jobs: Iterable[tuple[Key, Work, tuple[Any, ...]]]) -> Iterator[tuple[Key, np.ndarray]]:
    """Key and vectors of each job: one after the other here, in any order where there is an engine; see `RayEngine`.

    Examples
    --------
    >>> from embedkit.data.builtin.sentences import tokenizer
    >>> from embedkit.models import Model, StaticEncoder
    >>> model = StaticEncoder(tokenizer(), dim=8)
    >>> [(key, vectors.shape) for key, vectors in run_jobs(model, [("a", Model.encode, (["a cat", "a dog"],))])]
    [('a', (2, 8))]
    """
    one = _CURRENT.get()
    if one is not None:
        from embedkit.models.base import Model as Ours

        if isinstance(model, Ours):
            yield from one.run(model, jobs)
            return
    for key, function, arguments in jobs:
        yield key, function(model, *arguments)
