"""Situations from public issue threads, with inputs of our own: what users of other libraries met, met here.

Each test names its thread; the table "Strangers' situations" of docs/reliability.md lists them all.
"""

from __future__ import annotations

import csv
import io
import itertools
import json
import re
import shutil
import tarfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import embedkit
from embedkit.cli.app import main
from embedkit.errors import ModelError, UnsafeFileError
from tests.data.helpers import opened
from tests.helpers import dual, image_data, tiny

TEXTS = [text for text in tiny.SENTENCES if text]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny text model's folder."""
    return tiny.model_folder(tmp_path_factory.mktemp("strangers") / "model")


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny dual encoder's folder."""
    folder = tmp_path_factory.mktemp("strangers") / "dual"
    dual.dual().save(folder)
    return folder


def words(number: int, count: int = 6) -> str:
    """A text of its own for each number."""
    chosen = np.random.default_rng(number).choice(tiny.WORDS, count)
    return " ".join([*map(str, chosen), *str(number)])


def table(path: Path, header: Sequence[str], rows: Sequence[Sequence[Any]]) -> Path:
    """A csv file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([header, *rows])
    return path


def lines(path: Path, rows: Sequence[Any]) -> Path:
    """A jsonl file."""
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def jpeg(seed: int) -> bytes:
    """A small picture."""
    pixels = np.random.default_rng(seed).integers(0, 256, (40, 40, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG")
    return buffer.getvalue()


def shard(path: Path, members: Sequence[tuple[str, bytes | str]]) -> Path:
    """A tar file with these members."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as file:
        for name, content in members:
            data = content.encode() if isinstance(content, str) else content
            info = tarfile.TarInfo(name)
            info.size = len(data)
            file.addfile(info, io.BytesIO(data))
    return path


def said(capsys: pytest.CaptureFixture[str], *command: Any, code: int = 0) -> str:
    """What a command prints; its exit code must be `code`."""
    capsys.readouterr()
    assert main([str(word) for word in command]) == code
    return "".join(capsys.readouterr())


def trained(capsys: pytest.CaptureFixture[str], recipe: str, data: Path, model: Path, *more: str, code: int = 0) -> str:
    """What two steps of training print."""
    folder = data.parent / f"run-{data.name.replace('*', '')}"
    shutil.rmtree(folder, ignore_errors=True)
    command = ["train", recipe, data, f"model={model}", "train.max_steps=2", *more, "--output", folder]
    return said(capsys, *command, code=code)


# Data


def test_columns_are_bound_by_name_not_by_order(model: Path, tmp_path: Path, capsys: Any) -> None:
    """sentence-transformers#2791"""
    data = table(tmp_path / "a.csv", ["answer", "question"], [(words(2 * i), words(2 * i + 1)) for i in range(40)])
    assert "answer is the positive, question is the anchor" in trained(capsys, "pairs", data, model)


@pytest.mark.parametrize("neg", [[], None, "absent"])
def test_rows_of_flag_embedding_without_negatives(model: Path, tmp_path: Path, capsys: Any, neg: Any) -> None:
    """FlagEmbedding#945, #322"""
    rows = [{"query": words(3 * i), "pos": [words(3 * i + 1)], "neg": neg} for i in range(20)]
    rows = [{key: value for key, value in row.items() if value != "absent"} for row in rows]
    rows += [{"query": words(100 + i), "pos": [words(200 + i)], "neg": [words(300 + i)]} for i in range(20)]
    assert "20 rows without hard negatives" in trained(
        capsys, "pairs", lines(tmp_path / "a.jsonl", rows), model, "train.holdout=0"
    )


def test_a_number_among_the_positives_is_named(model: Path, tmp_path: Path, capsys: Any) -> None:
    """FlagEmbedding#732"""
    rows = [
        {"query": words(i), "pos": [words(50 + i), 5 if i == 7 else "a"], "neg": [words(99 + i)]} for i in range(40)
    ]
    out = trained(capsys, "pairs", lines(tmp_path / "a.jsonl", rows), model, code=2)
    assert "a.jsonl:8 column 'pos': expected text, found int 5" in out


def test_scores_that_are_null_do_not_matter_without_distillation(model: Path, tmp_path: Path, capsys: Any) -> None:
    """FlagEmbedding#1170"""
    rows = [
        {"query": words(i), "pos": [words(50 + i)], "neg": [words(99 + i)], "pos_scores": None, "neg_scores": None}
        for i in range(40)
    ]
    assert "column 'pos_scores' is not used" in trained(capsys, "pairs", lines(tmp_path / "a.jsonl", rows), model)


def test_scores_of_another_number_than_candidates_are_named(model: Path, tmp_path: Path, capsys: Any) -> None:
    """FlagEmbedding#949"""
    row = {"query": "a", "pos": ["the dog"], "neg": ["red", "green"], "pos_scores": [0.9], "neg_scores": [0.1]}
    data = lines(tmp_path / "a.jsonl", [row] * 10)
    out = trained(capsys, "pairs", data, model, "objective=margin-mse", code=2)
    assert "a.jsonl:1: 2 scores for 3 candidates" in out


def test_own_jsonl_in_tevatrons_form(model: Path, tmp_path: Path, capsys: Any) -> None:
    """tevatron#84, #116: passages with empty titles, other numbers of negatives; a query without a positive is named"""
    rows = [
        {
            "query_id": str(i), "query": words(i),
            "positive_passages": [{"docid": "p", "title": "", "text": words(50 + i)}],
            "negative_passages": [{"docid": "n", "title": "big", "text": words(99 + i + j)} for j in range(i % 3)],
        }
        for i in range(40)
    ]  # fmt: skip
    data = lines(tmp_path / "a.jsonl", rows)
    assert "positive_passages is the positives" in trained(capsys, "pairs", data, model)
    rows[3]["positive_passages"] = []
    out = trained(capsys, "pairs", lines(tmp_path / "b.jsonl", rows), model, code=2)
    assert "b.jsonl:4 column 'positive_passages': the list of texts is empty" in out


def test_some_rows_have_a_hard_negative_and_some_none(model: Path, tmp_path: Path, capsys: Any) -> None:
    """sentence-transformers#1178, #3153"""
    rows = [(words(i), words(50 + i), words(99 + i) if i % 2 else "") for i in range(40)]
    data = table(tmp_path / "a.csv", ["anchor", "positive", "negative"], rows)
    assert "20 rows without hard negatives" in trained(capsys, "pairs", data, model, "train.holdout=0")


def test_scores_of_0_to_5_are_ordered_or_refused(model: Path, tmp_path: Path, capsys: Any) -> None:
    """sentence-transformers#1095: CoSENT reads the order of any scale, a cosine is within -1 and 1"""
    rows = [(words(i), words(50 + i), i % 6) for i in range(40)]
    data = table(tmp_path / "a.csv", ["sentence1", "sentence2", "score"], rows)
    assert "spearman on your" in trained(capsys, "scored-pairs", data, model)
    out = trained(capsys, "scored-pairs", data, model, "objective=cosine-mse", code=2)
    assert "the score 2 is not between -1 and 1" in out


def test_lists_of_texts_are_answered_with_explode(model: Path, tmp_path: Path, capsys: Any) -> None:
    """sentence-transformers#3082: texts in one list a row, as InputExample and hub sets have them"""
    rows = [{"texts": [words(i), words(50 + i)], "label": i / 40} for i in range(40)]
    data = lines(tmp_path / "a.jsonl", rows)
    assert "columns: {texts: texts} and explode: true" in trained(capsys, "pairs", data, model, code=2)
    settings = ["columns={texts: texts, label: score}", "data.train.0.explode=true"]
    assert "spearman on your 4" in trained(capsys, "scored-pairs", data, model, *settings)


def test_lines_that_are_lists_are_answered_with_names(model: Path, tmp_path: Path, capsys: Any) -> None:
    """sentence-transformers#1483: the lines of its jsonl files of training data"""
    data = lines(tmp_path / "a.jsonl", [[words(i), words(50 + i), words(99 + i)] for i in range(40)])
    out = trained(capsys, "pairs", data, model, code=2)
    assert '{"anchor": "...", "positive": "...", "negative": "..."} a line' in out


def test_texts_with_labels_are_answered_with_what_trains_them(model: Path, tmp_path: Path, capsys: Any) -> None:
    """sentence-transformers#2920: the advice is followed, and trains"""
    data = table(tmp_path / "a.csv", ["text", "label"], [(words(i), i % 3) for i in range(60)])
    advice = "method=views objective=supcon data.sampler=by-label"
    assert advice in trained(capsys, "pairs", data, model, code=2)
    assert "2 steps, loss" in trained(capsys, "pairs", data, model, *advice.split())


# Images and shards


def test_class_numbers_of_shards_are_no_captions(clip: Path, tmp_path: Path, capsys: Any) -> None:
    """open_clip#569"""
    members = [member for i in range(10) for member in ((f"s{i}.cls", str(i)), (f"s{i}.jpg", jpeg(i)))]
    out = trained(capsys, "clip-finetune", shard(tmp_path / "0.tar", members), clip, code=2)
    assert "class numbers are no captions" in out


def test_samples_without_image_or_caption_are_counted_at_the_start(clip: Path, tmp_path: Path, capsys: Any) -> None:
    """open_clip#179, #1016"""
    members = [
        member
        for i in range(40)
        for member in ((f"{i}.jpg", jpeg(i)), (f"{i}.txt", words(i)), (f"{i}.json", "{}"))
        if member[0] not in ("3.jpg", "13.jpg", "4.txt", "14.txt", "24.txt")
    ]
    data = shard(tmp_path / "0.tar", members)
    out = trained(capsys, "clip-finetune", data, clip, "train.batch_size=8", "train.holdout=0")
    assert "35 rows; 2 steps of 8 rows (0.5 epochs); 5 more left out (5 missing column)" in out


def test_a_share_that_is_too_small_is_told_with_one_that_is_not(clip: Path, tmp_path: Path, capsys: Any) -> None:
    """open_clip#18: 32 pictures of one's own"""
    members = [member for i in range(32) for member in ((f"{i}.jpg", jpeg(i)), (f"{i}.txt", words(i)))]
    out = trained(capsys, "clip-finetune", shard(tmp_path / "0.tar", members), clip, "train.batch_size=8")
    assert "nothing is held out: 10% of 32 rows are fewer than 4; train.holdout=0.13 holds out so many" in out
    data = tmp_path / "0.tar"
    out = trained(capsys, "clip-finetune", data, clip, "train.batch_size=8", "train.holdout=0.13")
    assert "recall@1 on your 4 held-out image-caption pairs" in out


@pytest.mark.parametrize("separator", [",", "\t"])
def test_open_clips_csv(clip: Path, tmp_path: Path, capsys: Any, separator: str) -> None:
    """open_clip#789, #1083"""
    for i in range(40):
        (tmp_path / f"{i}.jpg").write_bytes(jpeg(i))
    rows = [f"{i}.jpg{separator}{words(i)}" for i in range(40)]
    (tmp_path / "a.csv").write_text("\n".join([f"filepath{separator}title", *rows]) + "\n")
    out = trained(capsys, "clip-finetune", tmp_path / "a.csv", clip, "train.batch_size=8")
    assert "filepath is the image, title is the text_1" in out


def test_image_paths_from_another_folder_on_are_answered(clip: Path, tmp_path: Path, capsys: Any) -> None:
    """open_clip#5: the advice is followed, and trains"""
    for i in range(40):
        (tmp_path / f"{i}.jpg").write_bytes(jpeg(i))
    rows = [(f"{tmp_path.name}/{i}.jpg", words(i)) for i in range(40)]
    data = table(tmp_path / "a.csv", ["filepath", "title"], rows)
    out = trained(capsys, "clip-finetune", data, clip, "train.batch_size=8", code=2)
    assert f"there is no image file '{tmp_path.name}/0.jpg'" in out
    assert "set 'image_folder' to the folder that they start from" in out
    folder = f"data.train.0.image_folder={tmp_path.parent}"
    assert "2 steps, loss" in trained(capsys, "clip-finetune", data, clip, "train.batch_size=8", folder)


def test_file_names_with_dots_in_shards_are_explained(clip: Path, tmp_path: Path, capsys: Any) -> None:
    """webdataset#237"""
    members = [member for i in range(9) for member in ((f"IMG.{i}.jpg", jpeg(i)), (f"IMG.{i}.txt", words(i)))]
    out = trained(capsys, "clip-finetune", shard(tmp_path / "0.tar", members), clip, code=2)
    assert "columns '0.jpg' and '1.jpg' and '2.jpg' and 6 more all look like image" in out
    assert "all behind the first dot is the ending" in out


def test_folders_with_dots_in_shards(clip: Path, tmp_path: Path, capsys: Any) -> None:
    """datasets#7150 (of webdataset's form)"""
    members = [member for i in range(40) for member in ((f"v1.2/{i}.jpg", jpeg(i)), (f"v1.2/{i}.txt", words(i)))]
    out = trained(capsys, "clip-finetune", shard(tmp_path / "0.tar", members), clip, "train.batch_size=8")
    assert "36 rows" in out


def test_equal_keys_in_two_shards_are_two_samples(clip: Path, tmp_path: Path, capsys: Any) -> None:
    """webdataset#327"""
    for number in range(2):
        members = [(f"{i}.{kind}", jpeg(i + 99 * number) if kind == "jpg" else words(i + 99 * number))
                   for i in range(20) for kind in ("jpg", "txt")]  # fmt: skip
        shard(tmp_path / "my shards" / f"train_{number}.tar", members)
    data = tmp_path / "my shards" / "train_*.tar"  # a blank in the path: webdataset#381; a pattern: webdataset#170
    out = trained(capsys, "clip-finetune", data, clip, "train.batch_size=8", "train.holdout=0")
    assert "40 rows" in out
    gap = said(capsys, "train", "clip-finetune", tmp_path / "my shards" / "train_{0..2}.tar", f"model={clip}", code=2)
    assert "train_2.tar: no such file or folder" in gap


def test_one_shard_and_three_processes(tmp_path: Path) -> None:
    """webdataset#188, #225: each process takes part in every step, and every sample is drawn once a pass"""
    pattern = image_data.write_shards(tmp_path, image_data.samples(24), 24)
    rows = opened([{"path": pattern, "stream": True}], "image texts", batch_size=6, seed=7, shuffle_buffer=24)
    parts = [list(itertools.islice(rows.batches(0, 0, rank, 3), 4)) for rank in range(3)]
    assert [[batch.step for batch in part] for part in parts] == [[0, 1, 2, 3]] * 3
    assert all(len(batch.rows) == 2 for part in parts for batch in part)
    assert len({id for part in parts for batch in part for id in batch.ids}) == 24


def test_pictures_with_transparency_grey_and_one_alone(clip: Path) -> None:
    """sentence-transformers#1309"""
    loaded = embedkit.load(clip)
    pixels = np.random.default_rng(0).integers(0, 256, (40, 40, 4), dtype=np.uint8)
    rgba, grey = Image.fromarray(pixels), Image.fromarray(pixels[:, :, 0])
    opaque = rgba.copy()
    opaque.putalpha(255)
    assert loaded.encode(rgba).shape == (loaded.dim,)
    np.testing.assert_allclose(loaded.encode([opaque]), loaded.encode([opaque.convert("RGB")]), atol=1e-6)
    np.testing.assert_allclose(loaded.encode([grey]), loaded.encode([grey.convert("RGB")]), atol=1e-6)


def test_a_checkpoint_of_open_clips_training_is_read(tmp_path: Path) -> None:
    """open_clip#492, #528, #602"""
    import open_clip

    name = "strangers"
    vision = {"image_size": 32, "layers": 1, "width": 32, "patch_size": 16, "head_width": 16}
    small = {"embed_dim": 16, "vision_cfg": vision, "text_cfg": {"width": 16, "heads": 2, "layers": 1}}
    (tmp_path / f"{name}.json").write_text(json.dumps(small))
    open_clip.add_model_config(tmp_path / f"{name}.json")
    torch.manual_seed(1)
    theirs = open_clip.create_model(name).eval()
    saved = {"epoch": 3, "name": "x", "state_dict": {f"module.{k}": v for k, v in theirs.state_dict().items()}}
    torch.save(saved, tmp_path / "epoch_3.pt")
    place = f"open_clip:{name}/{tmp_path}/epoch_3.pt"
    with pytest.raises(UnsafeFileError, match="allow_pickle=True"):
        embedkit.load(place)
    ours = embedkit.load(place, allow_pickle=True)
    with torch.no_grad():
        right = theirs.encode_text(open_clip.get_tokenizer(name)(["a dog", "red car"]), normalize=True).numpy()
    np.testing.assert_allclose(ours.encode(["a dog", "red car"]), right, atol=1e-5)
    with pytest.raises(ModelError, match=re.escape(place.replace(name, "ARCHITECTURE"))):
        embedkit.load(tmp_path / "epoch_3.pt")
