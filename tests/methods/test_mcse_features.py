"""eval/mcse_features.py makes the file that the recipes mcse-* read."""

from __future__ import annotations

import io
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
import torchvision
from PIL import Image

from embedkit.config.recipe import DataConfig
from embedkit.data import open_training
from embedkit.methods.mcse import MCSE
from tests.conftest import ROOT


def test_features_are_those_of_a_network_without_its_last_layer(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    images = [rng.integers(0, 256, (260, 300 + 10 * i, 3), dtype=np.uint8) for i in range(3)]
    cells = []
    for array in images:
        file = io.BytesIO()
        Image.fromarray(array).save(file, "PNG")
        cells.append(file.getvalue())
    captions = [["a dog", "the dog"], ["a cat"], ["a bird"], ["no image"]]
    splits = ["train", "train", "test", "train"]
    table = pa.table({"image": [*cells, b"broken"], "captions": captions, "split": splits})
    pq.write_table(table, tmp_path / "images.parquet")
    torch.manual_seed(0)
    network = torchvision.models.resnet50(weights=None)
    torch.save(network.state_dict(), tmp_path / "weights.pth")

    command = [sys.executable, str(ROOT / "eval" / "mcse_features.py"), str(tmp_path / "images.parquet"),
               str(tmp_path / "out.parquet"), "--caption", "captions", "--where", "split=train",
               "--weights", str(tmp_path / "weights.pth")]  # fmt: skip
    said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert "2 rows, 1 images left out" in said
    assert "row 4" in said

    found = pq.read_table(tmp_path / "out.parquet").to_pylist()
    assert found[0]["caption"] in captions[0] and found[1]["caption"] == "a cat"
    mean, deviation = (np.array(x, np.float32) for x in ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]))
    network.eval().fc = torch.nn.Identity()
    for array, row in zip(images, found, strict=False):
        height, width = 256, int(256 * array.shape[1] / array.shape[0])
        small = np.asarray(Image.fromarray(array).resize((width, height), Image.Resampling.BILINEAR), np.float32) / 255
        left = round((width - 224) / 2)
        x = ((small[16:240, left : left + 224] - mean) / deviation).transpose(2, 0, 1)[None]
        with torch.inference_mode():
            wanted = network(torch.from_numpy(np.ascontiguousarray(x)))[0].numpy()
        assert np.abs(np.array(row["features"], np.float32) - wanted).max() < 1e-3 * np.abs(wanted).max()

    source = {"path": str(tmp_path / "out.parquet"), "columns": {"caption": "anchor", "features": "features"}}
    rows = open_training(DataConfig.model_validate({"train": [source]}), MCSE.contract, batch_size=2, seed=0)
    assert rows.num_rows == 2
