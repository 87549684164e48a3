"""``embedkit search``: the rows of an index that are nearest to texts or images."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from embedkit.cli.output import (
    AllowPickle,
    Device,
    Dtype,
    JsonFile,
    Revision,
    TrustRemoteCode,
    check_json,
    console,
    write_json,
)
from embedkit.errors import COMMAND_LINE, UserError

if TYPE_CHECKING:
    from embedkit.retrieval.index import Hit, Index


def search(
    folder: Annotated[str, typer.Argument(metavar="INDEX", help="Folder of `embedkit index`.")],
    queries: Annotated[
        list[str] | None, typer.Argument(metavar="QUERY", help="Texts, or paths of images for a model with images.")
    ] = None,
    top_k: Annotated[int, typer.Option("--top-k", "-k", min=1, help="Rows for each query.")] = 10,
    exact: Annotated[bool, typer.Option("--exact", help="Through all float32 vectors; the default.")] = False,
    int8: Annotated[bool, typer.Option("--int8", help="Through 8-bit codes, the best scored anew.")] = False,
    binary: Annotated[bool, typer.Option("--binary", help="Through the signs, the best scored anew.")] = False,
    pca: Annotated[
        bool, typer.Option("--pca", help="Through 8-bit codes along the principal axes, the best scored anew.")
    ] = False,
    faiss: Annotated[
        str | None,
        typer.Option("--faiss", metavar="FACTORY", help="Through a FAISS index: HNSW32 ..."),
    ] = None,
    rescore: Annotated[
        int | None,
        typer.Option("--rescore", min=1, help="Candidates scored anew for a row, of --int8, --binary, --pca."),
    ] = None,
    model: Annotated[
        str | None, typer.Option("--model", "-m", help="Model folder or hub id, where it has moved.")
    ] = None,
    prompt: Annotated[
        str | None, typer.Option("--prompt", help="Name or text of a prompt; the model's for queries when not given.")
    ] = None,
    check: Annotated[bool, typer.Option("--check", help="First compare the index with its hashes.")] = False,
    serve: Annotated[bool, typer.Option("--serve", help="A page for searching, in the browser, until Ctrl-C.")] = False,
    port: Annotated[
        int | None, typer.Option("--port", min=0, max=65535, help="Of --serve; 8765, and 0 for a free one.")
    ] = None,
    host: Annotated[
        str | None, typer.Option("--host", help="Of --serve: another address than this machine's own 127.0.0.1.")
    ] = None,
    device: Device = None,
    dtype: Dtype = None,
    revision: Revision = None,
    trust_remote_code: TrustRemoteCode = False,
    allow_pickle: AllowPickle = False,
    json_file: JsonFile = None,
) -> None:
    """Find the rows of an index that are nearest to texts or images.

    Where the model takes images, a query that is the path of an image is that image. Scores are cosines (inner products
    where the model compares by these) of the float32 vectors, whatever the search goes through.

    \f
    Examples
    --------
    >>> from embedkit.cli.app import main
    >>> from embedkit.config.recipe_io import load_recipe
    >>> from embedkit.factory import build
    >>> _ = build(load_recipe("quickstart").model).save("model")
    >>> _ = Path("faq.txt").write_text("how do I pay?\\nwhere are you?\\n")
    >>> main(["index", "faq.txt", "faq-index", "--model", "model", "--json", "index.json"])
    2 rows of 64 numbers in faq-index...
    0
    >>> main(["search", "faq-index", "where are you?", "--top-k", "1"])
    where are you?
      1.000  1  where are you?
    0
    """
    check_json(json_file)
    _check_serve(serve, queries, json_file, {"--port": port, "--host": host}, {"--rescore": rescore,
                 "--faiss": faiss, "--prompt": prompt})  # fmt: skip
    if not queries and not check and not serve:
        raise UserError("a query is missing", where=COMMAND_LINE, remedy=f'write `embedkit search {folder} "a text"`')
    method, factory = _method(faiss, exact=exact, int8=int8, binary=binary, pca=pca)
    options = {name: value for name, value in (
        ("device", device), ("revision", revision), ("trust_remote_code", trust_remote_code),
        ("allow_pickle", allow_pickle)) if value}  # fmt: skip
    from embedkit.retrieval.index import Index

    index = Index(folder, model=model, dtype=dtype, **options)
    out = console(json_file)
    for note in index.notes:
        out.print(f"note: {note}")
    if check:
        index.check()
        out.print(f"{len(index.settings.files)} files of {folder} are as they were written")
    if serve:
        _serve(index, host or "127.0.0.1", 8765 if port is None else port, top_k, method)
        return
    from embedkit.data.sources.registry import format_of

    words = list(queries or [])
    for place, word in enumerate(words):
        if not word.strip():
            raise UserError("the query is empty", where=f"query {place + 1}", remedy="give a text")
        if format_of(word) and Path(word).is_file():
            raise UserError("is a file, and a query is a text", where=word,
                            remedy="write the text; in Python embedkit.search(INDEX, TEXTS) takes many")  # fmt: skip
    if words and top_k > len(index):
        out.print(f"note: --top-k is {top_k}, and the index has {len(index):,} rows: all of them follow")
    hits = (
        index.search(_items(index, words), top_k, method=method, rescore=rescore, factory=factory, prompt=prompt)
        if words
        else []
    )
    for word, rows in zip(words, hits, strict=True):
        out.print(word)
        for hit in rows:
            out.print(f"  {hit.score:.3f}  {hit.id}  {_line(hit)}")
    document = [{"query": word, "hits": [asdict(hit) for hit in rows]} for word, rows in zip(words, hits, strict=True)]
    write_json(json_file, {"index": Path(folder), "method": method, "queries": document})


def _check_serve(
    serve: bool, queries: list[str] | None, json_file: str | None, its: dict[str, Any], other: dict[str, Any]
) -> None:
    """Refuse what has no effect with --serve, and without it."""
    if not serve:
        for name, value in its.items():
            if value is not None:
                raise UserError(f"{name} is for --serve", where=COMMAND_LINE, remedy="add --serve, or leave it out")
        return
    if queries:
        raise UserError("--serve takes its queries in the browser", where=COMMAND_LINE, remedy="leave QUERY out")
    for name, value in {**other, "--json": json_file}.items():
        if value is not None:
            raise UserError(f"{name} has no effect with --serve", where=COMMAND_LINE, remedy="leave it out")


def _serve(index: Index, host: str, port: int, top_k: int, method: str) -> None:
    """Answer a browser until Ctrl-C."""
    from embedkit.retrieval.page.server import LOOPBACK, SearchServer

    with SearchServer(index, host=host, port=port, k=top_k, method=method) as server:
        print(f"{server.url} (Ctrl-C ends it)", flush=True)
        if host not in LOOPBACK:
            print("note: whoever can reach this address can search the index; there is no password", flush=True)
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            print()


def _method(faiss: str | None, **methods: bool) -> tuple[str, str]:
    """The one way of searching that was chosen, and the description of a FAISS index."""
    names = [name for name, on in {**methods, "faiss": faiss is not None}.items() if on]
    if len(names) > 1:
        raise UserError(f"--{names[0]} and --{names[1]} were given", where=COMMAND_LINE, remedy="give one of them")
    return names[0] if names else "exact", faiss or "HNSW32"


def _items(index: Index, words: list[str]) -> list[Any]:
    """The queries, those that name an image as paths where the model takes images."""
    from embedkit.data.images.pictures import SUFFIXES
    from embedkit.models.inputs.images import names_image

    looks = [word.lower().endswith(tuple(SUFFIXES)) for word in words]
    if not any(looks) or index.model.preprocess is None:
        return list(words)
    for word, look in zip(words, looks, strict=True):
        if look and not names_image(word):
            raise UserError("there is no such image file", where=word,
                            remedy="correct the path, or leave out its ending to search by the words")  # fmt: skip
    return [Path(word).expanduser() if look else word for word, look in zip(words, looks, strict=True)]


def _line(hit: Hit) -> str:
    """A row as one line."""
    text = hit.image if hit.text is None else " ".join(hit.text.split())
    text = "(an image without a path)" if text is None else text
    return text if len(text) <= 120 else text[:119] + "…"
