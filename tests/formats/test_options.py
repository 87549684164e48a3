"""Every remedy that an error of the formats names is an option that exists, in Python, recipes and on the command
line."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

import embedkit
from embedkit.cli.app import app
from embedkit.config.model import ModelConfig
from embedkit.errors import UnsafeFileError, UserError
from embedkit.factory import build
from tests.helpers import tiny


@pytest.fixture
def pickled(tmp_path: Path) -> Path:
    """A model folder whose weights are a pickle."""
    from safetensors.torch import load_file

    folder = tiny.model_folder(tmp_path / "m")
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    (folder / "embedkit.json").unlink()
    return folder


def test_a_pickle_is_read_by_each_option_that_its_error_names(pickled: Path, tmp_path: Path) -> None:
    with pytest.raises(UnsafeFileError) as caught:
        embedkit.load(pickled)
    remedy = str(caught.value)
    assert all(word in remedy for word in ("allow_pickle=True", "--allow-pickle", "model.allow_pickle=true"))
    expected = embedkit.load(pickled, device="cpu", allow_pickle=True).encode(["the dog"])
    model = build(ModelConfig(name=str(pickled), allow_pickle=True)).eval()
    np.testing.assert_array_equal(model.encode(["the dog"]), expected)
    with pytest.raises(UnsafeFileError):
        build(ModelConfig(name=str(pickled)))
    texts = tmp_path / "texts.txt"
    texts.write_text("the dog\n")
    commands = {
        "encode": [str(pickled), "--input", str(texts), "--output", str(tmp_path / "v.npy"), "--device", "cpu"],
        "export": [str(pickled), str(tmp_path / "e")],
        "doctor": [str(pickled)],
    }
    for name, words in commands.items():
        refused = CliRunner().invoke(app, [name, *words])
        assert refused.exit_code != 0, name
        result = CliRunner().invoke(app, [name, *words, "--allow-pickle"])
        assert result.exit_code == 0, (name, result.output)
    np.testing.assert_allclose(np.load(tmp_path / "v.npy"), expected, atol=1e-6)


@pytest.mark.parametrize("name", ["encode", "export", "doctor", "eval"])
def test_each_command_that_reads_a_model_has_both_options(name: str) -> None:
    text = CliRunner().invoke(app, [name, "--help"], env={"COLUMNS": "200"}).output
    assert "--allow-pickle" in text
    assert "--trust-remote-code" in text


def test_a_device_that_is_not_here_is_a_line_before_the_model_is_looked_for() -> None:
    for device in ("gpu", "cuda:97"):
        with pytest.raises(UserError, match=f"no device '{device}'.*; cpu is always there"):
            embedkit.load("nowhere/model", device=device)
