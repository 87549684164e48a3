"""Data, recipes and suites that want to run code, to lead elsewhere, or to unpack without end."""

from __future__ import annotations

import gzip
import io
import json
import shutil
import tarfile
from pathlib import Path
from typing import Any

from tests.faults.frame import Outcome, World, case, changed, command
from tests.faults.hostile import Canary, member, quietly, refused, write_tar

MB = 2**20


def _rows(path: Path | str, **settings: Any) -> list[dict[str, Any]]:
    from embedkit.data import read_rows

    return list(read_rows(path, **settings))


@case("security", "data files and folders that are a pickle")
def pickles(world: World) -> Outcome:
    from embedkit.evaluation import open_suite
    from embedkit.evaluation.report.report import load_reports

    canary, said, tries = Canary(world.folder), "", 0
    for name in (
        "t.csv", "t.tsv", "t.jsonl", "t.txt", "t.parquet", "t.tar", "t.csv.gz", "t.tgz", "t.pkl", "t.npy", "t.pt",
        "t.arrow", "t.json",
    ):  # fmt: skip
        file = world.folder / name
        if name == "t.npy":
            canary.numpy(file)
        elif name == "t.pt":
            canary.torch(file)
        else:
            file.write_bytes(gzip.compress(canary.bytes) if name.endswith(("gz", "tgz")) else canary.bytes)
        said = refused(lambda: _rows(file), name)  # noqa: B023 - called at once
        ended = command("doctor", file)
        ended.line(name)
        tries += 2
        assert canary.alive(), name
    saved = world.folder / "saved"
    saved.mkdir()
    (saved / "state.json").write_text(json.dumps({"_data_files": [{"filename": "data.arrow"}]}))
    for name in ("data.arrow", "state.json", "dataset_dict.json"):
        (saved / name).write_bytes(canary.bytes)
        refused(lambda: _rows(saved))
    refused(lambda: load_reports(world.folder / "t.json"), "result file")
    for name in ("stsb.tsv", "stsb.parquet", "stsb.jsonl"):
        data = world.folder / name.replace(".", "-")
        data.mkdir()
        (data / name).write_bytes(canary.bytes)
        refused(lambda: open_suite("sts", data, ["stsb"]), name)  # noqa: B023
    assert canary.alive()
    return Outcome(said, tries + 7, "refused")


@case("security", "data sets with a loading script, and folders whose card names files elsewhere")
def scripts(world: World) -> Outcome:
    canary, folder = Canary(world.folder), world.folder / "set"
    folder.mkdir()
    (folder / "set.py").write_text(canary.code)
    (folder / "dataset_infos.json").write_text("{}")
    said = refused(lambda: _rows(folder, format="hub", split="train"))
    refused(lambda: _rows(folder))
    (folder / "set.py").unlink()
    (folder / "dataset_infos.json").unlink()
    (folder / "README.md").write_text(
        "---\nconfigs:\n- config_name: default\n  data_files: http://127.0.0.1:9/x.csv\n---\n"
    )
    (folder / "a.csv").write_text("text\nhello\n")
    refused(lambda: _rows(folder, format="hub", split="train"), "elsewhere")
    (folder / "README.md").write_text("---\nconfigs:\n- config_name: default\n  data_files: ../../*\n---\n")
    refused(lambda: _rows(folder, format="hub", split="train"), "elsewhere")
    assert canary.alive()
    return Outcome(said, 4, "refused")


_TAGS = (
    "!!python/object/apply:os.system ['touch CANARY']", "!!python/object/new:os.system ['touch CANARY']",
    "!!python/name:os.system", "!!python/module:os", "!!python/object:embedkit.config.recipe.Recipe {}",
    "!!binary aGk=",
    "!!timestamp x", "!!bool maybe", "!!int ''", "!!float x", "!!set {a, b}", "!!omap [a: 1]", "!evil 1", "! x",
    "!!str x", "!<tag:yaml.org,2002:python/object/apply:os.system> ['touch CANARY']",
)  # fmt: skip


@case("security", "YAML: tags, aliases, a bomb of aliases, depth, size; in recipes, suites and overrides")
def yaml_files(world: World) -> Outcome:
    from embedkit.config.recipe_io import load_recipe, parse_yaml
    from embedkit.evaluation.core.suites import load_suite

    canary, file, said, tries = Canary(world.folder), world.folder / "r.yaml", "", 0
    bomb = "a0: &a0 [x, x, x, x, x, x, x, x, x]\n" + "".join(
        f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]\n" for i in range(1, 12)
    )
    texts = [f"name: {tag}\n".replace("CANARY", str(canary.path)) for tag in _TAGS]
    texts += [f"? {tag}\n: 1\n".replace("CANARY", str(canary.path)) for tag in _TAGS]
    texts += [
        bomb,
        "a: &a [*a]\n",
        "a: &a 1\nb: *a\n",
        "<<: {name: x}\n" * 2,
        "[" * 100_000,
        "{a: " * 50_000,
        "- " * 90_000,
    ]
    texts += [
        "%YAML 9.9\n---\na: 1\n",
        "--- 1\n--- 2\n",
        "\x00",
        "a: " + "9" * 10_000,
        "'",
        "a:\n\t- b",
        "&a",
        "*a",
        "? ",
    ]
    for text in texts:
        file.write_text(text)
        for read in (load_recipe, load_suite):
            said = refused(lambda: read(file), "r.yaml")  # noqa: B023 - called at once
        tries += 2
        if "\n" not in text.strip():
            quietly(lambda: parse_yaml(text, "--set x"))  # noqa: B023
    with file.open("wb") as handle:  # 100 MB
        for _ in range(100):
            handle.write(b"a: 1 # " + b"x" * (MB - 8) + b"\n")
    for read in (load_recipe, load_suite):
        said = refused(lambda: read(file), "larger than 1 MB")  # noqa: B023
    assert canary.alive()
    return Outcome(said, tries + 2, "refused")


@case("security", "tar shards: paths that lead out, links, devices, names like code, heads without end")
def tars(world: World) -> Outcome:
    canary, inner, tries = Canary(world.folder), world.folder / "in" / "side", 0
    inner.mkdir(parents=True)
    secret = world.folder / "secret.txt"
    secret.write_text("secret")
    good = [(member("a.txt"), b"hello"), (member("b.txt"), b"world")]
    hostile: list[tuple[tarfile.TarInfo, bytes]] = [
        (member("../../out.txt"), b"x"), (member("/tmp/embedkit-out.txt"), b"x"), (member("..\\out.txt"), b"x"),
        (member("c.txt", type=tarfile.SYMTYPE, linkname=str(secret)), b""),
        (member("d.txt", type=tarfile.LNKTYPE, linkname="../../secret.txt"), b""),
        (member("e.txt", type=tarfile.CHRTYPE, devmajor=1, devminor=5), b""),
        (member("f.txt", type=tarfile.FIFOTYPE), b""), (member("g.txt", type=tarfile.DIRTYPE), b""),
        (member("h.pkl"), canary.bytes), (member("i.pickle"), canary.bytes), (member("j.pyd"), canary.bytes),
        (member("k.pth"), canary.bytes), (member("l.npy"), canary.bytes), (member("m" * 300 + ".txt"), b"x"),
        (member("n.json"), b"[" * 100_000), (member("o.json"), b"9" * 100_000), (member("p.cls"), b"\xff\xfe"),
        (member("q.txt", type=b"Z"), b"x"),     ]  # fmt: skip
    with changed(world.folder) as was:
        for info, content in hostile:
            buffer = io.BytesIO()
            with tarfile.open(fileobj=buffer, mode="w") as tar:
                for head, text in (good[0], (info, content), good[1]):
                    head.size = len(text)
                    tar.addfile(head, io.BytesIO(text) if text else None)
            shard = inner / "s.tar"
            shard.write_bytes(buffer.getvalue())
            found = quietly(lambda: _rows(shard))  # noqa: B023 - called at once
            assert isinstance(found, Exception) or not any("secret" in str(row) for row in found), info.name
            shard.unlink()
            tries += 1
        assert not was() and canary.alive() and not Path("/tmp/embedkit-out.txt").exists()
    head = member("x" * 200)
    head.type = tarfile.GNUTYPE_LONGNAME
    block = head.tobuf(tarfile.GNU_FORMAT)[:512]
    shard = inner / "s.tar"
    shard.write_bytes(block * 20_000)  # a head that is told by a head that is told by a head ...
    said = refused(lambda: _rows(shard), "s.tar")
    many = [(member(f"{number:07d}.txt"), b"x") for number in range(20_000)]
    assert len(_rows(write_tar(shard, many))) == 20_000
    return Outcome(said, tries + 2, "refused or never opened")


@case("security", "addresses in place of a path: pipe:, http:, ftp:, data:, zip:; s3: and hf: without a network")
def addresses(world: World) -> Outcome:
    from tests.training import runs

    canary, said, tries = Canary(world.folder), "", 0
    for path, words in (
        (f"pipe:touch {canary.path}", "no address"), (f"pipe:touch {canary.path} .tar", "no address"),
        ("http://127.0.0.1:9/x.csv", "no address"), ("https://h/{0..3}.tar", "no address"),
        ("file:/etc/passwd", "no address"), ("data:text/csv,text%0Ahello", "no address"),
        ("ftp://h/x.txt", "no address"),
        ("zip://x.csv::http://h/y.zip", "two sources"), ("memory://no/such.csv", "no such file"),
        ("hf://datasets/a/b/x.csv", "hf://datasets/a/b/x.csv"), ("file:///no/such.csv", "no such file"),
    ):  # fmt: skip
        for format in ("auto", "webdataset", "csv"):
            said = refused(lambda: _rows(path, format=format), words)  # noqa: B023 - called at once
            tries += 1
        given = runs.recipe(data={"train": [{"path": path}]})
        refused(lambda: runs.run(world.folder / "run", given), words)  # noqa: B023
    assert canary.alive() and not (world.folder / "run").exists()
    return Outcome(said, tries, "refused")


def _bomb(path: Path, block: bytes, size: int) -> Path:
    """A gzip file that unpacks to `size` bytes of `block` over and over: members in a row count as one file."""
    packed = gzip.compress(block * (16 * MB // len(block)), compresslevel=9)
    with path.open("wb") as file:
        for _ in range(size // (16 * MB)):
            file.write(packed)
    return path


@case("security", "decompression bombs: 10 GB of text in gzip, a tar, parquet")
def bombs(world: World) -> Outcome:
    import pyarrow as pa
    import pyarrow.parquet as pq

    from embedkit.evaluation.datasets.tables import read_table

    line, said, tries = b"\t".join([b"word " * 100] * 2) + b"\n", "", 0
    for name, block in (
        ("t.tsv.gz", line), ("t.csv.gz", line), ("t.txt.gz", line), ("t.jsonl.gz", b'{"text": "%s"}\n' % (b"a" * 1000)),
        ("one-line.txt.gz", b"a" * MB), ("zeros.txt.gz", b"\0" * MB),
        ("t.tar.gz", b"\0" * MB), ("t.parquet.gz", b"\0" * MB),
    ):  # fmt: skip
        file = _bomb(world.folder / name, block, 10 * 2**30)
        assert file.stat().st_size < 64 * MB
        format = "parquet" if "parquet" in name else "auto"
        said = refused(lambda: _drain(file, format), name)  # noqa: B023 - called at once
        tries += 1
        if name in ("t.tsv.gz", "t.jsonl.gz", "t.csv.gz"):
            refused(lambda: read_table(file), name)  # noqa: B023
            tries += 1
        file.unlink()
    big = world.folder / "big.parquet"
    pq.write_table(pa.table({"text": ["a" * 100 * MB]}), big, compression="zstd", use_dictionary=False)
    assert big.stat().st_size < MB
    refused(lambda: _rows(big), "decompression bomb")
    said = refused(lambda: read_table(big), "decompression bomb")
    return Outcome(said, tries + 2, "refused")


def _drain(path: Path, format: str) -> None:
    from embedkit.data import read_rows

    for _ in read_rows(path, format=format):
        pass


@case("security", "paths of images and tables that lead out of the data: .., absolute, links, addresses")
def escapes(world: World) -> Outcome:
    from embedkit.evaluation import open_suite
    from embedkit.evaluation.datasets.image_files import image_content, read_folder
    from embedkit.models.encode.file_rows import _item
    from tests.training import runs

    outside = world.folder / "secret.png"
    from PIL import Image

    Image.new("RGB", (8, 8)).save(outside)
    data = world.folder / "data"
    data.mkdir()
    (data / "link.png").symlink_to(outside)
    (data / "up").symlink_to(world.folder)
    said, tries = "", 0
    for path in (
        "../secret.png", str(outside), "link.png", "up/secret.png", "a/../../secret.png", f"file://{outside}",
        "http://127.0.0.1:9/x.png", "pipe:cat", "\x00", "~/secret.png", "x" * 5000,
    ):  # fmt: skip
        refused(lambda: _item({"image": path}, None, data, "t.csv:1"), "t.csv:1")  # noqa: B023 - called at once
        assert image_content(path, data) is None, path
        (data / "t.jsonl").write_text(json.dumps({"image": path, "text": "a dog"}) + "\n")
        given = runs.recipe(method="clip", data={"train": [{"path": str(data / "t.jsonl")}]})
        said = refused(lambda: runs.run(world.folder / "run", given), "t.jsonl:1")  # noqa: B023
        quietly(lambda: read_folder(data))
        tries += 4
    (world.folder / "outside.tsv").write_text("sentence1\tsentence2\tscore\na\tb\t1\nc\td\t2\n")
    for key, value in (
        ("file", "../outside"), ("file", str(world.folder / "outside")), ("folder", "../.."), ("split", "../outside"),
        ("hub", "../outside"), ("file", "a/../../outside"), ("file", "x\0"),
    ):  # fmt: skip
        task: dict[str, Any] = {"name": "t", "kind": "sts"}
        suite: dict[str, Any] = {"name": "s", "description": "d", "tasks": [task]}
        if key == "file":
            task["file"] = value
        elif key == "folder":
            suite["folder"] = value
        elif key == "split":
            task["splits"] = {"test": value}
        else:
            task["hub"] = {"path": value}
        file = world.folder / "suite.yaml"
        file.write_text(json.dumps(suite))
        refused(lambda: open_suite(file, data), "leads out", "NUL", "special characters")  # noqa: B023
        tries += 1
    (data / "t.jsonl").unlink()
    shutil.rmtree(world.folder / "run", ignore_errors=True)
    return Outcome(said, tries, "refused")
