"""Whatever is wrong with what a user gives: exit code 2, one line with place and remedy, and no model is loaded.

What can be wrong with data is in tests/faults.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from embedkit.cli.app import main

MODEL = {
    "config": {"model_type": "bert", "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2,
               "intermediate_size": 16, "max_position_embeddings": 32},
    "tokenizer": "builtin", "pooling": "mean",
}  # fmt: skip
GOOD = "anchor\tpositive\tscore\n" + "".join(f"anchor {i}\tpositive {i}\t0.{i}\n" for i in range(8))

# what is wrong; the file's name and content; overrides; what the line must hold
CASES: dict[str, tuple[str, str | bytes | None, list[str], list[str]]] = {
    "missing column": ("t.tsv", "anchor\tother\nx\ty\n", [], ["t.tsv", "no column for role 'positive'"]),
    "unknown recipe key": ("t.tsv", GOOD, ["train.batchsize=4"], ["batchsize", "batch_size"]),
    "wrong type of a setting": ("t.tsv", GOOD, ["train.lr=fast"], ["train.lr", "number"]),
    "unknown metric": (
        "t.tsv", GOOD, ['evaluation={"suite": "sts", "metric": "sts/stsx"}'], ["sts/stsx", "sts/stsb"],
    ),
    "unknown objective": ("t.tsv", GOOD, ["objective=infonse"], ["infonse", "infonce"]),
    "not a model folder": ("t.tsv", GOOD, ["model={name: FOLDER/data}"], ["not a model folder"]),
    "folder with a pickle": ("t.tsv", GOOD, ["model={name: FOLDER/pickled}"], ["pickle", "pytorch_model.bin"]),
}  # fmt: skip


@pytest.fixture
def refused(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Callable[..., str]:
    """Run a command that must end with exit code 2 and one line on standard error; returns the line."""

    def run(*words: str) -> str:
        # whatever is wrong with rows and recipe is said before weights are made or read
        monkeypatch.setattr("embedkit.formats.loading.assemble", lambda *_, **__: pytest.fail("a model was read"))
        assert main(list(words)) == 2
        written = capsys.readouterr().err.strip().splitlines()  # notes on the data may come first
        lines = [line for line in written if line.startswith("embedkit: ")]
        assert len(lines) == 1 and written[-1] == lines[0], written
        assert len(lines[0]) < 2000
        return lines[0]

    return run


def recipe(folder: Path, name: str, content: str | bytes | None) -> Path:
    """A recipe over one file, beside a folder that is no model and one whose weights are a pickle."""
    (folder / "data").mkdir()
    (folder / "pickled").mkdir()
    (folder / "pickled" / "config.json").write_text('{"model_type": "bert"}')
    (folder / "pickled" / "vocab.txt").write_text("[PAD]\n")
    (folder / "pickled" / "pytorch_model.bin").write_bytes(b"\x80\x04.")
    if content is not None:
        (folder / "data" / name).write_bytes(content.encode() if isinstance(content, str) else content)
    given = {
        "name": "bad", "method": "pairs", "model": MODEL, "data": {"train": [{"path": str(folder / "data" / name)}]},
        "train": {"max_steps": 1, "batch_size": 2, "output": str(folder / "run")},
    }  # fmt: skip
    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump(given))
    return path


@pytest.mark.parametrize("case", CASES)
def test_training_refuses(case: str, tmp_path: Path, refused: Callable[..., str]) -> None:
    name, content, overrides, parts = CASES[case]
    path = recipe(tmp_path, name, content)
    line = refused("train", str(path), *(word.replace("FOLDER", str(tmp_path)) for word in overrides))
    assert all(part in line for part in parts), line
    assert not (tmp_path / "run" / "model").exists()


def test_training_refuses_a_used_output_folder(tmp_path: Path, refused: Callable[..., str]) -> None:
    path = recipe(tmp_path, "t.tsv", GOOD)
    (tmp_path / "run" / "checkpoints" / "step-1").mkdir(parents=True)
    assert "--resume" in refused("train", str(path))


@pytest.mark.parametrize("command", ["eval", "encode", "export"])
@pytest.mark.parametrize(
    ("folder", "part"), [("data", "not a model folder"), ("pickled", "pickle"), ("none", "no such")]
)
def test_using_refuses_what_is_no_model(
    command: str, folder: str, part: str, tmp_path: Path, refused: Callable[..., str]
) -> None:
    recipe(tmp_path, "t.txt", "a sentence\n")
    more = {
        "eval": ["--suite", "builtin-sts"],
        "encode": ["--input", str(tmp_path / "data" / "t.txt"), "--output", str(tmp_path / "v.npy")],
        "export": [str(tmp_path / "out")],
    }
    line = refused(command, str(tmp_path / folder), *more[command])
    assert part in line and folder in line, line
