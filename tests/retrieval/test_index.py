"""Index folders: what they find, against all products in float64; what is wrong with them, in a line."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import embedkit
from embedkit.cli.app import main
from embedkit.errors import DataError, DiskError, ModelError, NonFiniteError, UserError
from embedkit.retrieval.build import build_index
from embedkit.retrieval.index import Index
from tests.helpers import dual, tiny

WORDS = "the a two dog cat lamp house sea red huge small runs sleeps stands near under with and".split()  # noqa: SIM905
ALL = ("uint8", "ubinary", "pca")


def sentences(count: int) -> list[str]:
    rng = np.random.default_rng(0)
    return [" ".join(rng.choice(WORDS, rng.integers(2, 9))) for _ in range(count)]


@pytest.fixture(scope="module")
def model() -> Any:
    return tiny.text_encoder(prompts={"query": "a ", "passage": "the "}).eval()


@pytest.fixture(scope="module")
def index(model: Any, tmp_path_factory: pytest.TempPathFactory) -> Index:
    folder = tmp_path_factory.mktemp("index")
    rows = [{"id": f"d{n}", "text": text} for n, text in enumerate(sentences(300))]
    (folder / "t.jsonl").write_text("\n".join(json.dumps(row) for row in rows))
    return build_index(folder / "t.jsonl", folder / "ix", model, codes=ALL, block_rows=128)


def wanted(model: Any, texts: list[str], queries: list[str], k: int) -> list[list[tuple[str, float]]]:
    """Ids and cosines of the k nearest of `texts`, by plain sums in float64."""
    documents = model.encode_document(texts, normalize=True).astype(float)
    asked = model.encode_query(queries, normalize=True).astype(float)
    result = []
    for query in asked:
        scores = [float(sum(query * document)) for document in documents]
        order = sorted(range(len(texts)), key=lambda n: (-scores[n], n))[:k]
        result.append([(f"d{n}", scores[n]) for n in order])
    return result


@pytest.mark.parametrize(("method", "rescore"), [("exact", None), ("int8", 30), ("binary", 30), ("pca", 30)])
def test_the_best_rows_are_found(index: Index, model: Any, method: str, rescore: int | None) -> None:
    queries = ["two dogs", "the red house near the sea", "it sleeps"]
    hits = index.search(queries, k=10, method=method, rescore=rescore)
    for row, right in zip(hits, wanted(model, sentences(300), queries, 10), strict=True):
        assert np.allclose([hit.score for hit in row], [score for _, score in right], atol=1e-6)
        if method == "exact":  # equal texts have equal scores, and the order of what was rescored is theirs too
            assert [hit.id for hit in row] == [name for name, _ in right]
        assert [hit.text for hit in row] == [sentences(300)[hit.place] for hit in row]
    assert [hit.id for hit in index.search("two dogs", k=10, method=method, rescore=rescore)] == [h.id for h in hits[0]]


def test_faiss_finds_the_same(index: Index) -> None:
    pytest.importorskip("faiss")
    vectors = index.encode(["two dogs"])
    ours, theirs = index.nearest(vectors, 10), index.nearest(vectors, 10, method="faiss", factory="Flat")
    assert np.allclose(ours[0], theirs[0], atol=1e-6)


def test_vectors_are_queries_too(index: Index) -> None:
    place = 17
    assert index.search(np.asarray(index.vectors[place]) * 3, k=1)[0].score == pytest.approx(1, abs=1e-6)
    with pytest.raises(DataError, match=f"7 numbers a vector, and {index.settings.dim} in the index"):
        index.search(np.ones(7))
    with pytest.raises(NonFiniteError, match="query 2"):
        index.search(np.array([[1.0] * index.settings.dim, [np.nan] * index.settings.dim]))


def test_fewer_rows_than_asked_for(index: Index) -> None:
    for method in ("exact", "int8", "binary", "pca"):
        places = [hit.place for hit in index.search("a cat", k=999, method=method)]
        assert sorted(places) == list(range(300))


def test_equal_rows_come_in_their_order(model: Any, tmp_path: Path) -> None:
    index = build_index(["a cat"] * 40 + ["the sea"], tmp_path / "ix", model)
    for method in ("exact", "int8", "binary"):
        assert [hit.place for hit in index.search("cat", k=40, method=method, rescore=None)][:5] in (
            [0, 1, 2, 3, 4], [40, 0, 1, 2, 3]
        )  # fmt: skip
    assert index.search("cat", k=1)[0].id in (0, 40)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"queries": " "}, UserError, "query 1: the query is empty"),
        ({"queries": []}, UserError, "there is no query"),
        ({"queries": "a", "k": 0}, UserError, "k is 0"),
        ({"queries": "a", "k": True}, UserError, "k is True"),
        ({"queries": "a", "method": "int4"}, UserError, "unknown method 'int4'"),
        ({"queries": "a", "rescore": 3}, UserError, "exact search computes no scores anew"),
        ({"queries": "a", "method": "int8", "rescore": 0}, UserError, "rescore is 0"),
        ({"queries": Path("cat.jpg")}, DataError, "a text model encodes no images"),
        ({"queries": {"a": 1}}, DataError, "a mapping was given"),
        ({"queries": np.ones((1, 4)), "prompt": "query"}, UserError, "a prompt is for texts"),
    ],
)
def test_queries_that_cannot_be_answered(
    index: Index, arguments: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        index.search(**arguments)


def test_another_model_is_refused(index: Index, tmp_path: Path) -> None:
    other = tiny.text_encoder(prompts={"query": "the "}).eval()
    with pytest.raises(ModelError, match=r"built with another model \(hash .*\), and this model has the hash"):
        Index(index.folder, model=other).search("a cat")
    with pytest.raises(UserError, match="the index names no model"):
        Index(index.folder).search("a cat")


def test_codes_that_were_not_made(model: Any, tmp_path: Path) -> None:
    index = build_index(["a cat", "the sea"], tmp_path / "ix", model, codes=[])
    with pytest.raises(DataError, match="no ubinary codes; build it again with `embedkit index` and --codes ubinary"):
        index.search("cat", method="binary")
    with pytest.raises(UserError, match="an index has no codes 'int4'"):
        build_index(["a cat"], tmp_path / "other", model, codes=["int4"])


def damage(folder: Path, name: str, content: bytes | None) -> None:
    path = folder / name
    if content is None:
        path.unlink()
    else:
        path.write_bytes(content)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("vectors.npy", None, "vectors.npy is missing"),
        ("vectors.npy", b"half", r"vectors.npy has 4 bytes and not [\d,]+: it was changed"),
        ("rows.jsonl", b"", "rows.jsonl has 0 bytes"),
        ("index.json", b"{}", "its index.json cannot be read"),
        ("index.json", b"[1]", "its index.json cannot be read"),
        ("index.json", b'{"format": 99}', "an index of format 99"),
        ("index.json", b'{"format": 1, "rows": "x"}', "its index.json cannot be read: rows"),
        ("index.json", None, "is no index: it has no index.json"),
    ],
)
def test_damaged_folders(model: Any, tmp_path: Path, name: str, content: bytes | None, message: str) -> None:
    build_index(["a cat", "the sea"], tmp_path / "ix", model)
    damage(tmp_path / "ix", name, content)
    with pytest.raises(DataError, match=message):
        Index(tmp_path / "ix")


def test_a_changed_byte_is_seen_by_check(model: Any, tmp_path: Path) -> None:
    index = build_index(["a cat", "the sea"], tmp_path / "ix", model)
    index.check()
    content = bytearray((tmp_path / "ix" / "vectors.npy").read_bytes())
    content[-1] ^= 1
    (tmp_path / "ix" / "vectors.npy").write_bytes(content)
    with pytest.raises(DataError, match=r"vectors.npy was changed; build it again"):
        Index(tmp_path / "ix").check()


def test_a_source_that_changed_is_told(model: Any, tmp_path: Path) -> None:
    (tmp_path / "t.txt").write_text("a cat\nthe sea")
    index = build_index(tmp_path / "t.txt", tmp_path / "ix", model)
    assert index.notes == []
    (tmp_path / "t.txt").write_text("a cat\nthe sea\nmore")
    assert re.search("t.txt has changed since the index was built", Index(tmp_path / "ix").notes[0])
    (tmp_path / "t.txt").unlink()
    assert Index(tmp_path / "ix", model=model).search("cat", k=1)[0].text in ("a cat", "the sea")


def test_places_that_must_not_be_replaced(model: Any, tmp_path: Path) -> None:
    build_index(["a cat"], tmp_path / "ix", model)
    with pytest.raises(UserError, match="exists already"):
        build_index(["a dog"], tmp_path / "ix", model)
    build_index(["a dog"], tmp_path / "ix", model, overwrite=True)
    assert Index(tmp_path / "ix").row(0) == {"text": "a dog"}
    (tmp_path / "letters").mkdir()
    (tmp_path / "letters" / "a.txt").write_text("Dear reader")
    with pytest.raises(UserError, match="exists, and is no index"):
        build_index(["a dog"], tmp_path / "letters", model, overwrite=True)
    (tmp_path / "empty").mkdir()
    assert len(build_index(["a dog"], tmp_path / "empty", model)) == 1


def test_a_full_disk_leaves_what_was_there(model: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    build_index(["a cat"], tmp_path / "ix", model)

    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("embedkit.retrieval.build.write_codes", full)
    with pytest.raises(DiskError, match="no space left on the disk"):
        build_index(["a dog"], tmp_path / "ix", model, overwrite=True)
    assert Index(tmp_path / "ix").row(0) == {"text": "a cat"}
    monkeypatch.undo()
    build_index(["a dog"], tmp_path / "ix", model, overwrite=True)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["ix"]


def test_images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    image = pytest.importorskip("PIL.Image")
    monkeypatch.chdir(tmp_path)
    encoder = dual.dual().eval()
    embedkit.save(encoder, "model")
    Path("pictures").mkdir()
    rng = np.random.default_rng(0)
    for number in range(5):
        image.fromarray(rng.integers(0, 256, (40, 40, 3), dtype=np.uint8)).save(f"pictures/{number}.png")
    assert main(["index", "pictures", "ix", "--model", "model", "--device", "cpu"]) == 0
    index = embedkit.Index("ix", device="cpu")
    best = index.search(Path("pictures/3.png"), k=2)[0]
    assert best.image is not None and Path(best.image) == (tmp_path / "pictures" / "3.png")
    assert best.score == pytest.approx(1, abs=1e-5)
    capsys.readouterr()
    assert main(["search", "ix", "pictures/3.png", "a red lamp", "-k", "1", "--json", "-", "--device", "cpu"]) == 0
    out = json.loads(capsys.readouterr().out)
    assert out["queries"][0]["hits"][0]["image"].endswith("3.png")
    texts = encoder.encode("a red lamp", normalize=True).astype(float)
    scores = [float(encoder.encode(Path(f"pictures/{n}.png"), normalize=True).astype(float) @ texts) for n in range(5)]
    assert out["queries"][1]["hits"][0]["score"] == pytest.approx(max(scores), abs=1e-5)
    assert main(["search", "ix", "gone.png", "--device", "cpu"]) == 2
    assert "gone.png: there is no such image file; correct the path" in capsys.readouterr().err


def test_empty_texts_are_told(model: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    rows = [{"text": "a cat"}, {"text": " "}, {"text": "the sea"}, {"text": ""}]
    (tmp_path / "t.jsonl").write_text("\n".join(json.dumps(row) for row in rows))
    build_index(tmp_path / "t.jsonl", tmp_path / "ix", model, block_rows=3)
    assert "empty texts: 2, the first in row 2; searches may find them" in caplog.text


def test_the_commands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)
    embedkit.save(tiny.text_encoder().eval(), "model")
    Path("t.csv").write_text("id,text\nx,a cat\ny,the sea\n")
    assert main(["index", "t.csv", "ix", "--model", "model", "--device", "cpu"]) == 0
    assert "2 rows of" in capsys.readouterr().out
    for options in ([], ["--int8"], ["--binary"], ["--exact", "--check"]):
        assert main(["search", "ix", "the sea", *options, "--device", "cpu"]) == 0
        out = capsys.readouterr().out
        assert re.search(r"--top-k is 10, and the index has 2 rows: all of them follow", out)
        assert re.search(r"the sea\n  1\.000  y  the sea\n", out)
    for words, message in (
        (["search", "ix"], "a query is missing"),
        (["search", "ix", ""], "the query is empty"),
        (["search", "ix", "t.csv"], "t.csv: is a file, and a query is a text"),
        (["search", "ix", "a", "--int8", "--binary"], "--int8 and --binary were given"),
        (["search", "ix", "a", "--pca"], "no pca codes"),
        (["search", "nothing", "a"], "no such index"),
        (["index", "t.csv", "ix", "--model", "model"], "exists already"),
        (["index", "t.csv", "new", "--model", "model", "--codes", "int4"], "an index has no codes 'int4'"),
        (["index", "nothing.csv", "new", "--model", "model"], "nothing.csv"),
    ):
        assert main(words) == 2, words
        assert message in capsys.readouterr().err


_BUILD = """
import sys, time
import numpy as np
from embedkit.models.encode import file_encoding
from embedkit.retrieval.build import build_index
from tests.helpers import tiny
write = file_encoding.write_block
def slow(path, vectors):
    write(path, vectors)
    time.sleep(0.01)
file_encoding.write_block = slow
print("ready", flush=True)
build_index(sys.argv[1], sys.argv[2], tiny.text_encoder(prompts={}).eval(), block_rows=16, codes=sys.argv[3:])
"""


def test_split_and_limit_choose_the_rows(tmp_path: Path) -> None:
    model = tiny.text_encoder(prompts={}).eval()
    (tmp_path / "d").mkdir()
    for split in ("train", "test"):
        (tmp_path / "d" / f"{split}.jsonl").write_text("".join(f'{{"text": "{split} {n}"}}\n' for n in range(5)))
    index = build_index(tmp_path / "d", tmp_path / "ix", model, split="test", limit=3)
    assert [index.row(number)["text"] for number in range(len(index))] == ["test 0", "test 1", "test 2"]
    with pytest.raises(UserError, match="limit is 0"):
        build_index(tmp_path / "d", tmp_path / "iy", model, limit=0)


def test_an_error_tells_what_the_parts_are_for(tmp_path: Path) -> None:
    model = tiny.text_encoder(prompts={}).eval()
    rows = [{"text": text} for text in sentences(40)]
    lines = [json.dumps(row) for row in rows]
    (tmp_path / "t.jsonl").write_text("\n".join([*lines[:35], '{"text": 3}', *lines[36:]]))
    with pytest.raises(DataError, match=r"t\.jsonl:36.*; the rows encoded so far are kept in .*\.ix\.parts, and the"):
        build_index(tmp_path / "t.jsonl", tmp_path / "ix", model, block_rows=16)
    assert len(list((tmp_path / ".ix.parts").glob("*.npy"))) == 2
    (tmp_path / "t.jsonl").write_text("\n".join(lines))
    assert len(build_index(tmp_path / "t.jsonl", tmp_path / "ix", model, block_rows=16)) == 40
    (tmp_path / "t.jsonl").write_text('{"text": "a"}\n{"text": 3}')
    with pytest.raises(DataError, match="fix or remove the row$"):
        build_index(tmp_path / "t.jsonl", tmp_path / "iy", model)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["ix", "t.jsonl"]


def test_a_killed_build_leaves_nothing_half_and_resumes(tmp_path: Path) -> None:
    (tmp_path / "t.txt").write_text("\n".join(sentences(400)))
    rng = np.random.default_rng(0)
    words = [sys.executable, "-c", _BUILD, str(tmp_path / "t.txt"), str(tmp_path / "ix"), *ALL]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    for _ in range(3):
        process = subprocess.Popen(words, stdout=subprocess.PIPE, text=True, env=environment)
        assert process.stdout is not None and process.stdout.readline() == "ready\n"
        time.sleep(rng.uniform(0, 0.5))
        process.send_signal(signal.SIGKILL)
        process.wait()
        if (tmp_path / "ix").exists():
            Index(tmp_path / "ix").check()
            break
    model = tiny.text_encoder(prompts={}).eval()
    index = build_index(tmp_path / "t.txt", tmp_path / "ix", model, block_rows=16, codes=ALL, overwrite=True)
    fresh = build_index(tmp_path / "t.txt", tmp_path / "fresh", model, block_rows=16, codes=ALL)
    assert index.settings.files == fresh.settings.files
    assert sorted(path.name for path in tmp_path.iterdir()) == ["fresh", "ix", "t.txt"]
