"""The page of an index: its answers are those of the index, and it answers nobody else."""

from __future__ import annotations

import html
import io
import re
import signal
import subprocess
import sys
import threading
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

import embedkit
from embedkit.config.recipe_io import load_recipe
from embedkit.errors import UserError
from embedkit.factory import build
from embedkit.retrieval.page.server import MAX_UPLOAD, SearchServer

TEXTS = ["how do I pay?", "where are you?", "<script>alert(1)</script> & co", "when do you open?", "two\nlines"]
COLOURS = ["red", "green", "blue", "white"]


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("models")
    build(load_recipe("quickstart").model).save(folder / "text")
    build(load_recipe("clip-small", smoke=True).model).save(folder / "clip")
    return {name: folder / name for name in ("text", "clip")}


def served(index: embedkit.Index, **settings: Any) -> Iterator[SearchServer]:
    with SearchServer(index, port=0, **settings) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture(scope="module")
def texts(models: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Iterator[SearchServer]:
    folder = tmp_path_factory.mktemp("texts") / "faq"
    yield from served(embedkit.build_index(TEXTS, folder, models["text"]))


@pytest.fixture(scope="module")
def images(models: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Iterator[SearchServer]:
    folder = tmp_path_factory.mktemp("images")
    (folder / "photos").mkdir()
    for colour in COLOURS:
        Image.new("RGB", (64, 48), colour).save(folder / "photos" / f"{colour}.png")
    yield from served(embedkit.build_index(folder / "photos", folder / "index", models["clip"]))


def ask(server: SearchServer, path: str, body: bytes | None = None, **headers: str) -> tuple[int, str, Any]:
    request = urllib.request.Request(server.url + path.lstrip("/"), data=body, headers=headers)
    try:
        with urllib.request.urlopen(request) as answer:
            return answer.status, answer.read().decode("utf-8", "replace"), answer.headers
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode("utf-8", "replace"), error.headers


def found(page: str) -> list[str]:
    """The rows on a page, in its order: texts, or names of image files."""
    rows = re.findall(r"<li>(?:<p>(.*?)</p>|<img.*?alt=\"(.*?)\")", page, re.S)
    return [html.unescape(text or Path(image).name) for text, image in rows]


def form(boundary: str, **fields: str | bytes) -> bytes:
    parts = []
    for name, value in fields.items():
        file = '; filename="a.png"' if isinstance(value, bytes) else ""
        head = f'--{boundary}\r\nContent-Disposition: form-data; name="{name}"{file}\r\n\r\n'.encode()
        parts.append(head + (value if isinstance(value, bytes) else value.encode()) + b"\r\n")
    return b"".join(parts) + f"--{boundary}--\r\n".encode()


@pytest.mark.parametrize("method", ["exact", "int8", "binary"])
def test_a_text_finds_what_the_index_finds(texts: SearchServer, method: str) -> None:
    query = urllib.parse.urlencode({"q": "where do I pay?", "k": 3, "method": method})
    status, page, _ = ask(texts, f"/?{query}")
    assert status == 200
    hits = texts.page.index.search("where do I pay?", 3, method=method)
    assert found(page) == [hit.text for hit in hits]
    assert [f"{hit.score:.3f}" for hit in hits] == re.findall(r"</meter> (-?\d\.\d{3})", page)
    assert 'value="where do I pay?"' in page


def test_texts_are_escaped(texts: SearchServer) -> None:
    status, page, headers = ask(texts, "/?" + urllib.parse.urlencode({"q": '"><script>x', "k": 5}))
    assert status == 200
    assert "<script" not in page
    assert sorted(found(page)) == sorted(TEXTS)
    assert "default-src 'none'" in headers["Content-Security-Policy"]


def test_more_like_a_row_leaves_out_the_row(texts: SearchServer) -> None:
    _, page, _ = ask(texts, "/?row=2&k=2")
    near = texts.page.index.search(texts.page.index.vectors[2], 3)
    assert found(page) == [hit.text for hit in near if hit.place != 2][:2]
    assert "Nearest to row 2" in page
    assert all(f" · {hit.id} · <a" in page for hit in near if hit.place != 2)


@pytest.mark.parametrize(
    ("query", "line"),
    [
        ("q=+&k=3", "the query is empty; give a text"),
        ("q=a&k=0", "k: 0 rows are asked for; give a number from 1 to 200"),
        ("q=a&k=many", "k: 'many' is no whole number"),
        ("q=a&method=faiss", "method: unknown method 'faiss'; choose of exact, int8, binary"),
        ("row=5", "row: there is no row 5; the last one is 4"),
        ("row=-1", "row: '-1' is no whole number"),
    ],
)
def test_a_wrong_query_is_a_line_on_the_page(texts: SearchServer, query: str, line: str) -> None:
    status, page, _ = ask(texts, f"/?{query}")
    assert status == 400
    assert line in html.unescape(page)
    assert found(page) == []


def test_images_are_found_by_texts_and_by_images(images: SearchServer, tmp_path: Path) -> None:
    _, page, _ = ask(images, "/?q=a+red+square&k=4")
    index = images.page.index
    assert found(page) == [Path(str(hit.image)).name for hit in index.search("a red square", 4)]
    Image.new("RGB", (50, 50), "blue").save(tmp_path / "query.png")
    body = form("b0undary", image=(tmp_path / "query.png").read_bytes(), k="2")
    kind = {"Content-Type": "multipart/form-data; boundary=b0undary"}
    status, page, _ = ask(images, "/", body, **kind)
    assert status == 200
    assert found(page) == [Path(str(hit.image)).name for hit in index.search(tmp_path / "query.png", 2)]
    assert "data:image/jpeg;base64," in page
    status, page, _ = ask(images, "/", form("b0undary", image=b"no image"), **kind)
    assert status == 400
    assert "the uploaded image: no image format begins like" in html.unescape(page)


def test_only_images_of_rows_are_sent(images: SearchServer, texts: SearchServer) -> None:
    with urllib.request.urlopen(f"{images.url}image/0") as answer:
        picture = Image.open(io.BytesIO(answer.read()))
    assert picture.format == "JPEG"
    for path in ("/image/4", "/image/-1", "/image/../index.json", "/image/99999999999999", "/index.json", "/image/"):
        assert ask(images, path)[0] == 404, path
    assert ask(texts, "/image/0")[0] == 404


def test_an_image_for_a_model_of_texts_is_refused(texts: SearchServer) -> None:
    kind = {"Content-Type": "multipart/form-data; boundary=b"}
    status, page, _ = ask(texts, "/", form("b", image=b"anything"), **kind)
    assert status == 400
    assert "image: a text model encodes no images; give a text" in html.unescape(page)
    assert "by an image" not in page


def test_other_sites_are_not_answered(texts: SearchServer) -> None:
    port = texts.server_address[1]
    assert ask(texts, "/?q=a", Host=f"example.org:{port}")[0] == 403
    assert ask(texts, "/?q=a", Host=f"localhost:{port}")[0] == 200
    kind = {"Content-Type": "multipart/form-data; boundary=b"}
    assert ask(texts, "/", form("b", q="a"), Origin="http://example.org", **kind)[0] == 403
    assert ask(texts, "/", form("b", q="a"), Origin=texts.url.rstrip("/"), **kind)[0] == 200


def test_wrong_forms_are_refused(texts: SearchServer) -> None:
    assert ask(texts, "/", b"q=a", **{"Content-Type": "application/x-www-form-urlencoded"})[0] == 400
    assert ask(texts, "/elsewhere", b"")[0] == 404
    assert ask(texts, "/", b"", **{"Content-Length": str(MAX_UPLOAD + 1)})[0] == 413


def test_a_port_that_is_taken_is_a_line(texts: SearchServer) -> None:
    with pytest.raises(UserError, match="cannot listen there .*; give another --port"):
        SearchServer(texts.page.index, port=texts.server_address[1])


def test_the_page_takes_only_methods_that_the_index_has(models: dict[str, Any], tmp_path: Path) -> None:
    index = embedkit.build_index(TEXTS, tmp_path / "plain", models["text"], codes=[])
    for server in served(index):
        assert "<select" not in ask(server, "/")[1]
    with pytest.raises(UserError, match="the page has no method 'int8'; choose of exact"):
        SearchServer(index, port=0, method="int8")


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["a query", "--serve"], "--serve takes its queries in the browser"),
        (["--serve", "--rescore", "3", "--int8"], "--rescore has no effect with --serve"),
        (["--serve", "--json", "out.json"], "--json has no effect with --serve"),
        (["a query", "--port", "8000"], "--port is for --serve"),
    ],
)
def test_words_without_effect_are_refused(
    words: list[str], line: str, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from embedkit.cli.app import main

    monkeypatch.chdir(tmp_path)
    assert main(["search", "faq", *words]) == 2
    assert line in capsys.readouterr().err


def test_the_command_serves_until_it_is_interrupted(models: dict[str, Any], tmp_path: Path) -> None:
    embedkit.build_index(TEXTS, tmp_path / "faq", models["text"])
    words = [sys.executable, "-m", "embedkit", "search", "faq", "--serve", "--port", "0"]
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a background job hands on that it is ignored
    try:
        process = subprocess.Popen(words, cwd=tmp_path, stdout=subprocess.PIPE, text=True)
    finally:
        signal.signal(signal.SIGINT, before)
    try:
        assert process.stdout is not None
        url = process.stdout.readline().split()[0]
        with urllib.request.urlopen(f"{url}?q=pay") as answer:
            assert len(found(answer.read().decode())) == len(TEXTS)
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 0
    finally:
        process.kill()
        process.communicate()
