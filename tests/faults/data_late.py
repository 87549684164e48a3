"""Faults beyond the first rows, which a stream meets while it trains: the run ends with a line, or counts them."""

from __future__ import annotations

import json

from tests.faults.data_frame import Broken, recipe
from tests.faults.data_images import CLIP, data_set, encoded, photo
from tests.faults.frame import Outcome, World, command

ROWS, BAD = 240, 180


def _stream(world: World, **data: object) -> Broken:
    """A streamed jsonl of many rows, of which one is bad, far beyond those that are checked at the start."""
    rows = [{"anchor": f"a man has {n} dogs", "positive": f"someone has {n} animals"} for n in range(ROWS)]
    lines = [json.dumps(row) for row in rows]
    lines[BAD - 1] = '{"anchor": "a dog", "positive": 7}'
    change = {
        "data": {"shuffle_buffer": 8, "drop_last": False, **data},
        "train": {"batch_size": 8, "max_steps": 30, "log_every": 1},
    }
    return Broken("stream", {"t.jsonl": "\n".join(lines) + "\n"}, source={"stream": True}, change=change)


def in_a_stream(world: World) -> Outcome:
    """The line names file, row and column; no model is left that could be taken for a finished one."""
    ended = command("train", recipe(world, _stream(world)))
    line = ended.line(f"t.jsonl:{BAD}", "'positive'", "int 7", "mapping")
    assert ended.err.splitlines()[-1] == line and line.startswith("embedkit: ")
    assert not (world.folder / "run" / "model").exists()
    return Outcome(line.replace(str(world.folder), ""), kind="clear error")


def in_a_stream_skipped(world: World) -> Outcome:
    """All other rows are trained on, and the account has the one, to the unit."""
    path = recipe(world, _stream(world))
    text = path.read_text().replace("drop_last: false", "drop_last: false\n  on_bad_row: quarantine")
    path.write_text(text)
    ended = command("train", path)
    assert ended.code == 0, ended.err[-800:]
    samples = json.loads((world.folder / "run" / "samples.json").read_text())
    assert (samples["read"], samples["kept"], samples["dropped"]) == (ROWS, ROWS - 1, {"wrong type": 1}), samples
    assert samples["trained"] == samples["drawn"] == ROWS - 1, samples
    (listed,) = map(json.loads, (world.folder / "run" / "quarantine.jsonl").read_text().splitlines())
    assert listed["where"].endswith(f"t.jsonl:{BAD} column 'positive'"), listed
    return Outcome(f"read {ROWS}, trained {ROWS - 1}, dropped {samples['dropped']}", kind="accounted skip")


def an_image(world: World) -> Outcome:
    """An image that nobody has looked at yet ends the run with its place; nothing is left that looks finished."""
    files = data_set()
    table, bad = str(files["t.csv"]), 21
    for number in range(8, 24):
        files[f"files/{number}.png"] = encoded(photo(number))
        table += f"files/{number}.png,a picture of {number}\n"
    files[f"files/{bad}.png"] = encoded(photo(bad))[:60]
    broken = Broken("late", {**files, "t.csv": table}, change=CLIP)
    ended = command("train", recipe(world, broken, train={"batch_size": 24, "max_steps": 2}))
    line = ended.line(f"t.csv:{bad + 2}", "decoded", "skip")
    assert not (world.folder / "run" / "model").exists()
    command("validate", world.folder / "recipe.yaml", "--full").line(f"t.csv:{bad + 2}", "1 bad rows", "decoded")
    return Outcome(line.replace(str(world.folder), ""), kind="clear error")
