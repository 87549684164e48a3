"""What a browser asks of the page, and what the page shows."""

from __future__ import annotations

import base64
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from email import message_from_bytes
from email.message import Message
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode

from embedkit.data.images.pictures import load_picture, small_jpeg
from embedkit.data.schema.rows import BadRow
from embedkit.errors import DataError, UserError
from embedkit.retrieval.codes import NAMES
from embedkit.system.templates import render_template

if TYPE_CHECKING:
    from PIL.Image import Image

    from embedkit.retrieval.index import Hit, Index

MAX_ROWS = 200
"""Rows of one answer at most."""
_SMALL = 320
"""Pixels of the shorter side of an image on the page."""


@dataclass(frozen=True)
class Query:
    """One search: a text, an uploaded image, or a row of the index.

    Attributes
    ----------
    text : str
        The text; empty where one of the others is given.
    image : bytes or None
        Content of an image file.
    row : int or None
        Place of a row, from 0, whose neighbours are wanted.
    k : int
        Rows of the answer.
    method : str
        See `Index.search`.

    Examples
    --------
    >>> Query("a lamp").is_empty, Query().is_empty
    (False, True)
    """

    text: str = ""
    image: bytes | None = None
    row: int | None = None
    k: int = 10
    method: str = "exact"

    @property
    def is_empty(self) -> bool:
        """Whether nothing is asked yet."""
        return not self.text.strip() and self.image is None and self.row is None


def read_form(fields: Mapping[str, str | bytes], default: Query) -> Query:
    """The query in the fields of a form or of an address; what is left out is that of `default`.

    Raises
    ------
    UserError
        A number is none, or there are more rows asked than a page shows.

    Examples
    --------
    >>> read_form({"q": "a lamp", "k": "3"}, Query(method="int8"))
    Query(text='a lamp', image=None, row=None, k=3, method='int8')
    """
    image = fields.get("image") or None
    if isinstance(image, str):
        raise UserError("the image is no file", where="image", remedy="choose a file")
    k = _number(fields, "k", default.k)
    if k is None or not 1 <= k <= MAX_ROWS:
        raise UserError(f"{k} rows are asked for", where="k", remedy=f"give a number from 1 to {MAX_ROWS}")
    return Query(_text(fields, "q"), image, _number(fields, "row", None), k, _text(fields, "method") or default.method)


def _text(fields: Mapping[str, str | bytes], name: str) -> str:
    value = fields.get(name, "")
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else value


def _number(fields: Mapping[str, str | bytes], name: str, default: int | None) -> int | None:
    text = _text(fields, name).strip()
    if not text:
        return default
    if not (text.isascii() and text.isdigit() and len(text) < 10):
        raise UserError(f"{text[:40]!r} is no whole number", where=name, remedy="give one from 0 on")
    return int(text)


def read_multipart(content_type: str, body: bytes) -> dict[str, str | bytes]:
    """The fields of a form sent as multipart/form-data: files as bytes, others as texts.

    Raises
    ------
    UserError
        It is no such form.

    Examples
    --------
    >>> body = b'--x\\r\\nContent-Disposition: form-data; name="k"\\r\\n\\r\\n3\\r\\n--x--\\r\\n'
    >>> read_multipart("multipart/form-data; boundary=x", body)
    {'k': '3'}
    """
    head = f"Content-Type: {content_type}\r\n\r\n".encode("ascii", "replace")
    message = message_from_bytes(head + body)
    if message.get_content_type() != "multipart/form-data" or not message.is_multipart():
        raise UserError("the form cannot be read", where="POST", remedy="send multipart/form-data")
    fields: dict[str, str | bytes] = {}
    for part in message.get_payload():
        if not isinstance(part, Message):
            continue
        name = part.get_param("name", header="content-disposition")
        content = part.get_payload(decode=True)
        if isinstance(name, str) and isinstance(content, bytes):
            is_file = part.get_filename() is not None
            fields[name] = content if is_file else content.decode("utf-8", "replace")
    return fields


class SearchPage:
    """The page of an index: answers of queries as HTML, images of rows as JPEG. Safe to be called by several threads.

    Parameters
    ----------
    index : Index
        The index; its model is read here.
    k : int
        Rows of an answer, where a query names no number.
    method : str
        How it is searched at first: "exact", "int8" or "binary".

    Raises
    ------
    UserError, ModelError
        As of `Index.model`.

    Examples
    --------
    >>> import embedkit
    >>> from embedkit.data.builtin.sentences import tokenizer
    >>> from embedkit.models import StaticEncoder
    >>> page = SearchPage(embedkit.build_index(["a red lamp", "two cats"], "lamps", StaticEncoder(tokenizer(), dim=8)))
    >>> status, html = page.answer({"q": "two cats", "k": "1"})
    >>> status, "two cats</p>" in html, "a red lamp" in html
    (200, True, False)
    """

    def __init__(self, index: Index, *, k: int = 10, method: str = "exact") -> None:
        self.index = index
        self.takes_images = index.model.preprocess is not None
        self.methods = ["exact", *(name for name, code in NAMES.items() if code in index.settings.codes)]
        if method not in self.methods:
            raise UserError(f"the page has no method {method!r}", where="method",
                            remedy=f"choose of {', '.join(self.methods)}")  # fmt: skip
        self.default = Query(k=k, method=method)
        self._lock = threading.Lock()

    def answer(self, fields: Mapping[str, str | bytes]) -> tuple[int, str]:
        """Status and HTML for the fields of a form."""
        query, fault, hits, took = self.default, None, [], 0.0
        try:
            query = read_form(fields, self.default)
            if not query.is_empty:
                begun = time.perf_counter()
                hits = self.hits(query)
                took = time.perf_counter() - begun
            elif "q" in fields or "image" in fields:
                raise UserError("the query is empty", remedy="give a text" + self.takes_images * ", or choose an image")
        except UserError as error:
            fault = str(error)
        return (400 if fault else 200), self._html(query, hits, took, fault)

    def hits(self, query: Query) -> list[Hit]:
        """The rows that answer a query, the best first.

        Raises
        ------
        UserError
            There is no such row, or a setting is unknown.
        DataError
            The image cannot be read, or the model takes none.
        """
        if query.method not in self.methods:
            raise UserError(f"unknown method {query.method[:40]!r}", where="method",
                            remedy=f"choose of {', '.join(self.methods)}")  # fmt: skip
        with self._lock:
            if query.row is not None:
                if query.row >= len(self.index):
                    raise UserError(f"there is no row {query.row}", where="row",
                                    remedy=f"the last one is {len(self.index) - 1}")  # fmt: skip
                hits = self.index.search(self.index.vectors[query.row], query.k + 1, method=query.method)
                return [hit for hit in hits if hit.place != query.row][: query.k]
            return self.index.search(  # type: ignore[no-any-return]
                query.text if query.image is None else self._uploaded(query.image), query.k, method=query.method
            )

    def _uploaded(self, content: bytes) -> Image:
        if not self.takes_images:
            raise DataError(f"a {self.index.model.kind} model encodes no images", where="image", remedy="give a text")
        try:
            return load_picture(content).image
        except BadRow as bad:
            raise bad.at("the uploaded image") from bad

    def image(self, place: int) -> bytes | None:
        """The image of a row as a small JPEG; None where the row has none that can be read."""
        path = self.index.row(place).get("image") if 0 <= place < len(self.index) else None
        if path is None:
            return None
        try:
            return small_jpeg(load_picture(path, need=_SMALL).image, _SMALL)
        except BadRow:
            return None  # the page shows the path instead

    def _html(self, query: Query, hits: list[Hit], took: float, fault: str | None) -> str:
        index, settings = self.index, self.index.settings
        row = query.row if query.row is not None and query.row < len(index) else None
        upload = None
        if query.image is not None and fault is None:
            jpeg = small_jpeg(load_picture(query.image, need=_SMALL).image, _SMALL)
            upload = "data:image/jpeg;base64," + base64.b64encode(jpeg).decode("ascii")
        return render_template(
            Path(__file__).parent / "templates", "page", name=index.folder.name, rows=len(index),
            model=settings.model and Path(settings.model).name, dim=settings.dim, notes=index.notes,
            takes_images=self.takes_images, methods=self.methods, max_rows=MAX_ROWS, query=query, fault=fault,
            row=None if row is None else self._row(row), upload=upload,
            hits=[self._card(hit, query) for hit in hits], milliseconds=round(1000 * took),
            similarity={"cosine": "cosine", "dot": "inner product"}[settings.similarity],
        )  # fmt: skip

    def _row(self, place: int) -> dict[str, Any]:
        row = self.index.row(place)
        return {"place": place, "id": row.get("id", place), "text": row.get("text"), "image": row.get("image")}

    def _card(self, hit: Hit, query: Query) -> dict[str, Any]:
        more = urlencode({"row": hit.place, "k": query.k, "method": query.method})
        named_by_file = hit.image is not None and Path(hit.image).name == str(hit.id)
        return {"hit": hit, "name": "" if named_by_file else str(hit.id), "more": "/?" + more,
                "meter": min(1.0, max(0.0, hit.score))}  # fmt: skip
