"""Image-text runs over dirty data: killed, resumed, on one and two processes; every sample is accounted for."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch

from embedkit.config.recipe_io import load_recipe
from embedkit.errors import DataError
from embedkit.training import train
from embedkit.training.monitor.log import Progress
from tests.helpers import image_data
from tests.training import runs
from tests.training.test_resume import killed_at

COUNT, BATCH, TOTAL = 150, 20, 9
FAULTS = image_data.one_in(COUNT, 20)
KINDS = ("tar", "csv")


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    """The same samples, one in twenty spoilt, as shards that are streamed and as a csv of paths."""
    folder = tmp_path_factory.mktemp("images")
    content = image_data.samples(COUNT, FAULTS)
    return {
        "tar": {"path": image_data.write_shards(folder / "tar", content, 13), "stream": True},
        "csv": {"path": image_data.write_csv(folder / "csv", content, missing=(5,))},
    }


def _recipe(source: dict[str, Any], method: Any = "clip", **train_settings: Any) -> dict[str, Any]:
    settings = {"max_steps": TOTAL, "batch_size": BATCH, "lr": 1e-3, "log_every": 1, "save_every": 1,
                "keep_checkpoints": 3, **train_settings}  # fmt: skip
    data = {"train": [source], "on_bad_row": "quarantine", "shuffle_buffer": 40, "lanes": 3, "max_pixels": 50_000_000}
    return {"name": "images", "seed": 3, "method": method, "model": image_data.DUAL, "data": data, "train": settings}


def _end(output: Path) -> tuple[dict[str, torch.Tensor], dict[str, Any], list[dict[str, Any]]]:
    """Last weights, totals, and the manifest of a run."""
    manifest = [json.loads(line) for line in (output / "quarantine.jsonl").read_text().splitlines()]
    return runs.checkpoint(output, TOTAL), json.loads((output / "samples.json").read_text()), manifest


def _same(found: Any, wanted: Any) -> None:
    assert found[0].keys() == wanted[0].keys()
    for name, tensor in wanted[0].items():
        assert torch.equal(found[0][name], tensor), name
    assert found[1:] == wanted[1:]


@pytest.fixture(scope="module")
def unbroken(sources: dict[str, dict[str, Any]], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The end of an unbroken run by kind of source."""
    found = {}
    for kind, source in sources.items():
        output = tmp_path_factory.mktemp(f"whole-{kind}")
        train(_recipe(source), output=output, progress=Progress())
        found[kind] = _end(output)
    return found


@pytest.mark.parametrize("kind", KINDS)
def test_every_sample_is_trained_on_or_listed(kind: str, unbroken: dict[str, Any]) -> None:
    _, totals, manifest = unbroken[kind]
    assert totals["step"] == TOTAL
    assert totals["drawn"] == TOTAL * BATCH == totals["trained"] + sum(totals["skipped"].values())
    listed = Counter(line["reason"] for line in manifest if line["step"] is not None)
    assert listed == Counter(totals["skipped"])
    assert listed.total() >= 5
    assert [(line["step"], line["place"]) for line in manifest if line["step"]] == sorted(
        (line["step"], line["place"]) for line in manifest if line["step"]
    )
    if kind == "csv":
        left_out = Counter(line["reason"] for line in manifest if line["step"] is None)
        known = image_data.count(FAULTS)
        wanted = {name: known[name] for name in ("blank text", "empty image")} | {"missing image": 1}
        assert left_out == Counter(wanted) == Counter(totals["dropped"])
        assert totals["read"] == COUNT == totals["kept"] + sum(totals["dropped"].values())
    else:
        assert totals["read"] is None


@pytest.mark.parametrize("stop", [2, 5, 8])
@pytest.mark.parametrize("kind", KINDS)
def test_killed_and_resumed_ends_bit_for_bit(
    kind: str, stop: int, sources: dict[str, Any], unbroken: dict[str, Any], tmp_path: Path
) -> None:
    given = _recipe(sources[kind])
    given["data"]["workers"] = 3
    killed_at(stop, given, tmp_path)
    given["data"]["workers"] = 1
    train(given, output=tmp_path, resume=True, progress=Progress())
    _same(_end(tmp_path), unbroken[kind])
    train(given, output=tmp_path, resume=True, progress=Progress())  # the end once more changes nothing
    assert _end(tmp_path)[2] == unbroken[kind][2]


def _run_here(output: str, given: dict[str, Any], stop: int | None = None) -> list[float]:
    if stop is not None:
        killed_at(stop, given, Path(output))
    return train(given, output=output, resume=stop is not None, progress=Progress()).losses


@pytest.mark.parametrize("kind", KINDS)
def test_two_processes_draw_the_same_and_resume_bit_for_bit(
    kind: str, sources: dict[str, Any], unbroken: dict[str, Any], processes: Any, tmp_path: Path
) -> None:
    given = _recipe(sources[kind])
    processes(2).run(_run_here, str(tmp_path / "whole"), given)
    whole = _end(tmp_path / "whole")
    assert whole[1:] == unbroken[kind][1:]  # the same samples as one process: trained, skipped, where
    processes(2).run(_run_here, str(tmp_path / "broken"), given, 4)
    _same(_end(tmp_path / "broken"), whole)


@pytest.mark.parametrize("kind", KINDS)
def test_one_and_two_processes_train_to_the_same_weights(
    kind: str, sources: dict[str, Any], processes: Any, tmp_path: Path
) -> None:
    given = _recipe(sources[kind], max_steps=4, chunk_size=6)
    given["model"] = json.loads(json.dumps(image_data.DUAL))
    given["model"]["towers"]["text"]["dropout"] = 0.0
    train(given, output=tmp_path / "one", progress=Progress())
    processes(2).run(_run_here, str(tmp_path / "two"), given)
    one, two = (runs.checkpoint(tmp_path / name, 4) for name in ("one", "two"))
    for name, tensor in one.items():
        if not name.endswith(("in_proj_bias", "key.bias")):  # of keys: their gradient is zero but for rounding
            assert torch.allclose(two[name], tensor, rtol=1e-3, atol=2e-5), name


def test_errors_stop_the_run_and_name_the_sample(sources: dict[str, Any], tmp_path: Path) -> None:
    given = _recipe(sources["csv"])
    given["data"]["on_bad_row"] = "error"
    with pytest.raises(DataError, match=r"captions\.csv:7 column 'image': there is no image file"):
        train(given, output=tmp_path / "missing", progress=Progress())
    content = image_data.samples(24, {20: "damaged image"})
    given["data"]["train"] = [{"path": image_data.write_csv(tmp_path / "cut", content)}]
    with pytest.raises(DataError, match=r"captions\.csv:22: the image cannot be decoded.*on_bad_row: skip"):
        train(given, output=tmp_path / "damaged", progress=Progress())


def test_locked_vectors_are_computed_once_and_kept(sources: dict[str, Any], tmp_path: Path) -> None:
    given = _recipe(sources["csv"], {"name": "lit"}, max_steps=6)
    progress = runs.Recorder()
    result = train(given, output=tmp_path / "cached", progress=progress)
    assert any("locked tower" in line for line in progress.lines)
    before = (tmp_path / "cached" / "image-cache" / "vectors.npy").stat().st_mtime_ns
    plain = _recipe(sources["csv"], {"name": "lit", "cache": False}, max_steps=6)
    other = train(plain, output=tmp_path / "plain", progress=Progress())
    assert result.losses == pytest.approx(other.losses, rel=1e-4)
    totals = [json.loads((tmp_path / name / "samples.json").read_text()) for name in ("cached", "plain")]
    assert totals[0] == totals[1]
    assert totals[0]["skipped"]
    killed = tmp_path / "killed"
    killed_at(3, given, killed)
    made = (killed / "image-cache" / "vectors.npy").stat().st_mtime_ns
    train(given, output=killed, resume=True, progress=Progress())
    assert (killed / "image-cache" / "vectors.npy").stat().st_mtime_ns == made != before
    for name, tensor in runs.checkpoint(tmp_path / "cached", 6).items():
        assert torch.equal(runs.checkpoint(killed, 6)[name], tensor), name
    start = {n: t for n, t in runs.checkpoint(tmp_path / "cached", 6).items() if n.startswith("model.image.")}
    for name, tensor in runs.checkpoint(tmp_path / "plain", 6).items():
        if name in start:
            assert torch.equal(tensor, start[name]), name  # the tower has not moved


def test_the_pull_holds_weights_back_and_the_mean_lies_between(sources: dict[str, Any], tmp_path: Path) -> None:
    from safetensors.torch import load_file

    from embedkit.config.model import ModelConfig
    from embedkit.factory import build

    def distance(output: Path) -> float:
        weights = runs.checkpoint(output, 6)
        return sum(float((weights[f"model.{name}"] - p).pow(2).sum()) for name, p in start.items()) ** 0.5

    start = {n: p.detach() for n, p in build(ModelConfig(**image_data.DUAL), 3).named_parameters()}
    for name, settings in (("free", {}), ("held", {"l2sp": 10.0}), ("mixed", {"wise_ft": 0.25})):
        train(_recipe(sources["csv"], max_steps=6, **settings), output=tmp_path / name, progress=Progress())
    assert distance(tmp_path / "held") < 0.9 * distance(tmp_path / "free")
    assert distance(tmp_path / "mixed") == pytest.approx(distance(tmp_path / "free"), rel=1e-6)
    saved = load_file(tmp_path / "mixed" / "model" / "projections.safetensors")
    tuned = runs.checkpoint(tmp_path / "mixed", 6)
    for name, tensor in saved.items():
        wanted = 0.75 * start[f"projections.{name}"] + 0.25 * tuned[f"model.projections.{name}"]
        assert torch.allclose(tensor, wanted, atol=1e-6), name


def test_the_best_checkpoint_is_chosen_by_retrieval(tmp_path: Path) -> None:
    given = _recipe({"path": "builtin:shapes-train", "limit": 200}, max_steps=4, save_every=None)
    given["evaluation"] = {"suite": "builtin-image-text", "every": 2}
    result = train(given, output=tmp_path / "retrieval", progress=Progress())
    assert 0 < result.scores["builtin-image-text/shapes"] < 100
    assert result.best["step"] in (2, 4)
    given["evaluation"] = {"suite": "builtin-zero-shot", "every": 4}
    result = train(given, output=tmp_path / "zero-shot", progress=Progress())
    assert set(result.scores) == {"builtin-zero-shot/shapes"}


def test_validate_full_counts_what_training_would_skip(
    sources: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from embedkit.cli.app import main
    from embedkit.config.recipe_io import dump_recipe

    given = _recipe(sources["tar"])
    path = tmp_path / "recipe.yaml"
    path.write_text(dump_recipe(load_recipe(given)))
    assert main(["validate", str(path), "--full", "--json", str(tmp_path / "report.json")]) == 0
    (report,) = json.loads((tmp_path / "report.json").read_text())["sources"]
    assert report["bad"] == dict(image_data.count(FAULTS))
    shown = capsys.readouterr().out.splitlines()
    assert all(f"{fault['where']}: {fault['what']}" in shown for fault in report["faults"][:20])
    assert report["read"] == COUNT == report["good"] + sum(report["bad"].values())
    assert main(["validate", str(path), "data.on_bad_row=error", "--full"]) == 2
