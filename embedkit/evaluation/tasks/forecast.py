"""Forecasts: how much of the steps that follow a sequence can be read from its frozen vector."""

from __future__ import annotations

from typing import Any

import numpy as np
from pydantic import Field

from embedkit.errors import DataError
from embedkit.evaluation.core.embedder import Embedder
from embedkit.evaluation.core.inputs import EncodedVector, Item
from embedkit.evaluation.core.stats import Array, Samples, generator
from embedkit.evaluation.core.suites import TaskConfig
from embedkit.evaluation.core.task import TASKS, Opening, Request, Task, TaskResult, TaskSettings
from embedkit.evaluation.datasets.inputs import inputs_of
from embedkit.evaluation.datasets.splits import same_split
from embedkit.evaluation.datasets.tables import Table, content_hash, open_splits

STRENGTHS = 10.0 ** np.arange(-3, 5)
"""Ridge strengths, of which leave-one-out error chooses."""


class ForecastSettings(TaskSettings):
    """``horizon``: steps at the end of each sequence that are told from those before. ``train``: the split that the
    regression is fit on.

    Examples
    --------
    >>> ForecastSettings(horizon=4).train
    'train'
    """

    horizon: int = Field(1, gt=0)
    train: str = "train"


def cut(items: list[Item], horizon: int, width: int | None = None) -> tuple[list[Item], Array]:
    """The sequences without their last `horizon` steps, and these, float64 (N, horizon x W).

    Raises
    ------
    DataError
        An item is no sequence, has no more steps than `horizon`, or steps of another size than `width`.

    Examples
    --------
    >>> item = EncodedVector(np.arange(6, dtype=np.float32).tobytes(), "a.npz:1", width=2)
    >>> history, future = cut([item], 1)
    >>> history[0].decode().tolist(), future.tolist()
    ([[0.0, 1.0], [2.0, 3.0]], [[4.0, 5.0]])
    """
    before: list[Item] = []
    after: list[Array] = []
    for item in items:
        if not isinstance(item, EncodedVector) or item.width is None:
            raise DataError("a forecast reads sequences of vectors", where=getattr(item, "name", str(item)[:40]),
                            remedy="map a column of arrays (T, W): --set 'columns={x: text}'")  # fmt: skip
        steps = item.decode()
        if len(steps) <= horizon:
            raise DataError(f"the sequence has {len(steps)} steps", where=item.name,
                            remedy=f"give more than horizon {horizon}")  # fmt: skip
        before.append(EncodedVector(steps[:-horizon].tobytes(), item.name, item.width))
        after.append(steps[-horizon:].astype(np.float64).reshape(-1))
    return before, np.stack(after)


@TASKS.add("forecast")
class ForecastTask(Task):
    """R² x 100 of a ridge regression from the vector of a sequence to the steps that follow it.

    Data: ``text``, a column of sequences (T, W), whose last ``horizon`` steps are cut off and told. With splits train
    and test the regression is fit on the one and scored on the other, else on one half of the rows each. Beside it the
    errors of the regression and of the last known step, repeated (``mse_last``).

    Examples
    --------
    >>> from types import SimpleNamespace
    >>> last = SimpleNamespace(encode=lambda xs: np.array([[*x[-1], 1.0] for x in xs]))
    >>> cells = {"text": [[[float(i)], [i + 1.0], [i + 2.0]] for i in range(40)]}
    >>> config = TaskConfig(name="ramps", kind="forecast", own=True)
    >>> task = ForecastTask(config, Opening(Table(cells, list(range(40)), "ramps"), "test"))
    >>> round(task.score(Embedder(last)).score, 1)
    100.0
    """

    settings_type = ForecastSettings

    def __init__(self, config: TaskConfig, opening: Opening) -> None:
        super().__init__(config, opening)
        self.tables = self._tables(config, opening)
        items = [inputs_of(table) for table in self.tables]
        (self.before, self.first_future), (self.now, self.future) = (cut(one, self.settings.horizon) for one in items)
        if self.first_future.shape[1] != self.future.shape[1]:
            raise DataError("its steps have another size than those of the training split", where=self.tables[1].source,
                            remedy="give both the same columns")  # fmt: skip

    def _tables(self, config: TaskConfig, opening: Opening) -> list[Table]:
        """Rows to fit on, and rows to score."""
        train, data = self.settings.train, opening.data
        if isinstance(data, Table):
            data = self.own_table(data, {"anchor": "text"})
            if same_split(train) not in {same_split(str(cell)) for cell in data.columns.get("split", ())}:
                (whole,) = open_splits(config, data, [opening.split])
                if len(whole) < 4:
                    raise DataError(f"{len(whole)} rows", where=whole.source, remedy="give four at least")
                self.notes.append(f"{self.name}: fit on one half of the rows: there are no splits train and test")
                order = generator(opening.seed, f"{self.name}/halves").permutation(len(whole))
                half = (len(order) + 1) // 2
                return [whole.take(sorted(part.tolist())) for part in (order[:half], order[half:])]
        in_file = config.in_file(opening.split)
        names = [train, in_file if isinstance(in_file, str) else in_file[0]]
        return list(open_splits(config, data, names, opening.folder))

    @property
    def data(self) -> dict[str, Any]:
        """Source, rows scored and fit on, and the hash of all."""
        content = [self.before, self.first_future.tolist(), self.now, self.future.tolist()]
        return {"source": self.tables[1].source, "rows": len(self.now), "fit": len(self.before),
                "sha256": content_hash(*content)}  # fmt: skip

    def requests(self) -> list[Request]:
        """The sequences without what follows."""
        return [Request(self.before), Request(self.now)]

    def score(self, embed: Embedder) -> TaskResult:
        """R² x 100 over all steps and numbers, and the errors."""
        from sklearn.linear_model import RidgeCV
        from sklearn.pipeline import make_pipeline
        from sklearn.preprocessing import StandardScaler

        model = make_pipeline(StandardScaler(), RidgeCV(alphas=STRENGTHS))
        model.fit(embed(self.before).astype(np.float64), self.first_future)
        forecast = np.asarray(model.predict(embed(self.now).astype(np.float64))).reshape(self.future.shape)
        errors = ((forecast - self.future) ** 2).mean(axis=1)
        spread = float(((self.future - self.future.mean(axis=0)) ** 2).mean())
        samples = Samples("mean", {"value": 1.0 - errors / (spread or 1.0)})
        last = np.stack([np.tile(item.decode()[-1], self.settings.horizon) for item in self.now])  # type: ignore[union-attr]
        metrics = {
            "r2": 100 * float(samples.values["value"].mean()), "mse": float(errors.mean()),
            "mae": float(np.abs(forecast - self.future).mean()), "mse_last": float(((last - self.future) ** 2).mean()),
        }  # fmt: skip
        details = {"strength": float(model[-1].alpha_), "horizon": self.settings.horizon}
        return TaskResult(self.name, "r2", metrics["r2"], metrics, samples, details=details, notes=list(self.notes))
