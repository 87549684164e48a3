"""Two processes give the scores of one, on each of them, and each encodes half."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from embedkit.evaluation import evaluate
from tests.evaluation.toys import BagOfWords, sts_folder
from tests.helpers.gloo import run_processes


def _scores(data: str, distributed: bool) -> tuple[dict[str, float], int]:
    model = BagOfWords()
    report = evaluate(model, "sts", data, ["sts12", "stsb"], distributed=distributed, resamples=20)
    return report.scores | {"low": report.tasks["stsb"].interval[0]}, len(model.asked)


def test_two_processes_score_like_one(tmp_path: Path) -> None:
    data = str(sts_folder(tmp_path))
    alone, whole = _scores(data, False)
    answers: list[Any] = run_processes(_scores, 2, data, True)
    assert [scores for scores, _ in answers] == [alone, alone]
    asked = [count for _, count in answers]
    assert sum(asked) == whole
    assert abs(asked[0] - asked[1]) <= 1
