"""Broken and odd images: each a clear error, an accounted skip, or legal input; none silent."""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from tests.faults import data_images, data_late, data_shards
from tests.faults.data_frame import Broken, no_model, one_line, recipe
from tests.faults.frame import Outcome, World, case, command


def refused(world: World, broken: Broken) -> Outcome:
    """As for texts: `embedkit train` refuses in one line before a model is made.

    ``embedkit validate --full`` with ``on_bad_row: skip`` counts what can be skipped, and finds all else good.
    """
    path = recipe(world, broken)
    with no_model():
        line = one_line(command("train", path), broken.parts)
    assert not (world.folder / "run").exists(), "a run folder was made"
    if broken.skipped is not None:
        found = _validated(world, recipe(world, broken, data={"on_bad_row": "skip", "train": [_source(path)]}))
        bad, good = found["bad"], found["good"]
        assert bad == dict(broken.skipped), bad
        assert found["read"] == good + sum(bad.values()), found
        assert len(found["faults"]) == sum(bad.values())
        line = f"{line} | skipped: {bad}, {good} good"
    return Outcome(line.replace(str(world.folder), ""), kind="clear error")


def _source(path: Path) -> dict[str, Any]:
    import yaml

    return dict(yaml.safe_load(path.read_text(encoding="utf-8"))["data"]["train"][0])


def _validated(world: World, path: Path) -> dict[str, Any]:
    ended = command("validate", path, "--full", "--json", world.folder / "found.json")
    assert ended.code == 0, ended.err
    (found,) = json.loads((world.folder / "found.json").read_text(encoding="utf-8"))["sources"]
    return dict(found)


def legal(world: World, broken: Broken, wanted: data_images.Pixels | None, checked: str) -> Outcome:
    """All rows are good; the pixels are the same for training, evaluation and encoding, and those that are wanted."""
    found = _validated(world, recipe(world, broken))
    assert (found["read"], found["good"]) == (8, 8), found
    if wanted is not None:
        content = broken.files[data_images.SPOILT]
        assert isinstance(content, bytes)
        wanted.check(content)
    made = {path.name for path in world.folder.iterdir()}
    assert made == {"data", "recipe.yaml", "found.json"}, f"written outside of the data folder: {made}"
    outside = [world.folder.parent / "0003.png", Path("/etc/embedkit/0003.png")]
    assert not any(path.exists() for path in outside), "a shard was unpacked"
    return Outcome(checked, kind="accepted")


@case("images", "every fault at once, trained on")
def ledger(world: World) -> Outcome:
    """A run over good and bad rows: each row is trained on, or listed with its place and reason, to the unit."""
    files, faults = data_images.all_at_once()
    broken = Broken("all", files, change=data_images.CLIP)
    settings = {"max_steps": None, "epochs": 1, "batch_size": 6, "output": str(world.folder / "run")}
    given = {"on_bad_row": "quarantine", "drop_last": False, "train": [{"path": str(world.folder / "data" / "t.csv")}]}
    ended = command("train", recipe(world, broken, train=settings, data=given))
    assert ended.code == 0, ended.err[-900:]
    samples = json.loads((world.folder / "run" / "samples.json").read_text())
    text = (world.folder / "run" / "quarantine.jsonl").read_text().splitlines()
    listed = {Path(row["where"].split()[0]).name: row["reason"] for row in map(json.loads, text)}
    assert listed == faults, (listed, faults)
    assert len(text) == len(faults)
    assert samples["read"] == samples["kept"] + sum(samples["dropped"].values()) == len(files) - 1, samples
    assert samples["drawn"] == samples["kept"] == samples["trained"] + sum(samples["skipped"].values()), samples
    said = f"read {samples['read']}, trained {samples['trained']}, left out {samples['dropped']} {samples['skipped']}"
    return Outcome(said, trials=len(faults), kind="accounted skip")


def _register(cases: Sequence[Broken]) -> None:
    for broken in cases:
        case("images", broken.name)(partial(refused, broken=broken))


_register([*data_images.REFUSED, *data_shards.REFUSED])
for _broken, _wanted, _checked in data_images.LEGAL:
    case("images", f"legal: {_broken.name}")(partial(legal, broken=_broken, wanted=_wanted, checked=_checked))
for _broken, _checked in data_shards.LEGAL:
    case("images", f"legal: {_broken.name}")(partial(legal, broken=_broken, wanted=None, checked=_checked))
case("images", "a truncated image beyond the first rows")(data_late.an_image)
