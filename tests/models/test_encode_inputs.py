"""What users hand to encode: containers, one text, the words of sentence-transformers, similarity, copies."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable
from multiprocessing.reduction import ForkingPickler
from typing import Any

import numpy as np
import pytest
import torch

from embedkit.errors import DataError, ModelError, UserError
from embedkit.models.base import Model
from embedkit.models.encode.arguments import OTHERS, items_of
from embedkit.models.similarity import SIMILARITIES, similarity_matrix
from tests.helpers import dual, tiny

TEXTS = ["a man is playing guitar", "the dog", "", "they eat", "the dog"]


def series(library: str) -> Any:
    pytest.importorskip(library)
    if library == "pandas":
        import pandas

        return pandas.Series(TEXTS, index=[7, 3, 9, 1, 2])
    if library == "polars":
        import polars

        return polars.Series("text", TEXTS)
    if library == "pyarrow":
        import pyarrow

        return pyarrow.chunked_array([TEXTS[:2], TEXTS[2:]])
    import datasets

    return datasets.Dataset.from_dict({"text": TEXTS})["text"]


CONTAINERS: dict[str, Callable[[], Any]] = {
    "list": lambda: TEXTS,
    "tuple": lambda: tuple(TEXTS),
    "generator": lambda: (text for text in TEXTS),
    "dict values": lambda: dict(enumerate(TEXTS)).values(),
    "array of str": lambda: np.array(TEXTS),
    "array of objects": lambda: np.array(TEXTS, dtype=object),
    "one column": lambda: np.array(TEXTS)[:, None],
    "pandas": lambda: series("pandas"),
    "polars": lambda: series("polars"),
    "pyarrow": lambda: series("pyarrow"),
    "datasets": lambda: series("datasets"),
}


@pytest.fixture(scope="module")
def model() -> Any:
    return tiny.text_encoder(prompts={"query": "who ", "passage": "the ", "plain": ""}, default_prompt="passage")


@pytest.mark.parametrize("name", CONTAINERS)
def test_any_container_of_texts_in_its_order(model: Any, name: str) -> None:
    np.testing.assert_array_equal(model.encode(CONTAINERS[name]()), model.encode(list(TEXTS)))


def test_pyarrow_array_and_large_strings(model: Any) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    whole = model.encode(TEXTS)
    np.testing.assert_array_equal(model.encode(pyarrow.array(TEXTS)), whole)
    np.testing.assert_array_equal(model.encode(pyarrow.array(TEXTS, pyarrow.large_string())), whole)


def test_one_text_is_one_vector(model: Any) -> None:
    vector = model.encode("the dog")
    assert vector.shape == (model.dim,)
    np.testing.assert_allclose(vector, model.encode(["the dog"])[0], atol=1e-6)
    assert model.encode(np.str_("the dog")).shape == (model.dim,)
    assert model.encode(np.array("the dog")).shape == (model.dim,)


def tables() -> dict[str, Any]:
    pandas, pyarrow = pytest.importorskip("pandas"), pytest.importorskip("pyarrow")
    datasets = pytest.importorskip("datasets")
    frame = pandas.DataFrame({"id": [1, 2], "text": ["a", "b"]})
    return {
        "frame": frame, "table": pyarrow.table({"text": ["a"]}), "dataset": datasets.Dataset.from_pandas(frame),
        "two columns": np.array([["a", "b"], ["c", "d"]]),
    }  # fmt: skip


@pytest.mark.parametrize("name", ["frame", "table", "dataset", "two columns"])
def test_a_table_is_refused_with_the_column_as_the_remedy(model: Any, name: str) -> None:
    with pytest.raises(DataError, match="column"):
        model.encode(tables()[name])


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ({"x": "aa", "y": "bb"}, "a mapping was given"),
        ({"a", "b"}, "a set was given, which has no order"),
        (7, "inputs are int"),
        (None, "inputs are NoneType"),
        (np.zeros((2, 5)), "neither texts nor images"),
        ([["a"], ["b"]], r"inputs\[0\]: item is list"),
        (["a", float("nan")], r"inputs\[1\]: item is float"),
        (["a", None], r"inputs\[1\]: item is NoneType"),
        (np.array(["a", None], dtype=object), r"inputs\[1\]"),
    ],
)
def test_what_is_no_text_is_refused_in_one_line(model: Any, inputs: Any, message: str) -> None:
    with pytest.raises(DataError, match=message) as caught:
        model.encode(inputs)
    assert "\n" not in str(caught.value)


def test_a_bare_image_or_bytes_for_a_text_model(model: Any) -> None:
    with pytest.raises(DataError, match=r"inputs\[0\]: item is Image"):
        model.encode(dual.images(1)[0])
    with pytest.raises(DataError, match=r"inputs\[0\]: item is bytes"):
        model.encode(b"the dog")


def test_items_of_batches_of_images() -> None:
    pixels = np.zeros((4, 8, 8, 3), dtype=np.uint8)
    items, single = items_of(pixels)
    assert (len(items), single) == (4, False)
    items, single = items_of(torch.zeros(3, 8, 8))
    assert (len(items), single) == (1, True)


# the words of sentence-transformers -----------------------------------------------------------------------------------


def test_every_argument_of_sentence_transformers_is_known() -> None:
    library = pytest.importorskip("sentence_transformers")
    theirs = set(inspect.signature(library.SentenceTransformer.encode).parameters) - {"self", "inputs", "kwargs"}
    ours = {*inspect.signature(Model.encode).parameters, *OTHERS}
    assert theirs <= ours


def test_prompt_name(model: Any) -> None:
    np.testing.assert_array_equal(model.encode(TEXTS, prompt_name="query"), model.encode(TEXTS, prompt="query"))
    with pytest.raises(UserError, match="prompt_name: unknown prompt 'qury'; did you mean 'query'"):
        model.encode(TEXTS, prompt_name="qury")
    with pytest.raises(UserError, match="prompt and prompt_name were given"):
        model.encode(TEXTS, prompt="query", prompt_name="passage")


def test_an_empty_prompt_is_a_prompt(model: Any) -> None:
    bare = tiny.text_encoder().encode(TEXTS)
    np.testing.assert_array_equal(model.encode(TEXTS, prompt=""), bare)
    np.testing.assert_array_equal(model.encode(TEXTS, prompt="plain"), bare)
    np.testing.assert_array_equal(model.encode(TEXTS, prompt_name="plain"), bare)


def test_normalize_embeddings_and_progress(model: Any, capsys: pytest.CaptureFixture[str]) -> None:
    plain = model.encode(TEXTS, normalize_embeddings=False)
    np.testing.assert_array_equal(plain, model.encode(TEXTS, normalize=False))
    assert not np.allclose(np.linalg.norm(plain, axis=1), 1)
    with pytest.raises(UserError, match="normalize is True and normalize_embeddings is False"):
        model.encode(TEXTS, normalize=True, normalize_embeddings=False)
    capsys.readouterr()
    model.encode(TEXTS, show_progress_bar=True)
    assert "encode" in capsys.readouterr().err
    model.encode(TEXTS, show_progress_bar=False)
    assert capsys.readouterr().err == ""


def test_convert_to_tensor_and_list(model: Any) -> None:
    vectors = model.encode(TEXTS)
    tensor = model.encode(TEXTS, convert_to_tensor=True)
    assert isinstance(tensor, torch.Tensor)
    assert tensor.device == model.device
    np.testing.assert_array_equal(tensor.numpy(), vectors)
    rows = model.encode(TEXTS, convert_to_numpy=False)
    assert [row.shape for row in rows] == [(model.dim,)] * len(TEXTS)
    assert model.encode("the dog", convert_to_tensor=True).shape == (model.dim,)


@pytest.mark.parametrize("size", [1, 2, 1000])
def test_batch_size_bounds_the_inputs_of_a_batch(model: Any, size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: list[int] = []
    forward = type(model).forward

    def counted(self: Any, inputs: Any, *args: Any, **settings: Any) -> Any:
        sizes.append(len(inputs))
        return forward(self, inputs, *args, **settings)

    whole = model.encode(TEXTS)
    monkeypatch.setattr(type(model), "forward", counted)
    np.testing.assert_allclose(model.encode(TEXTS, batch_size=size), whole, atol=1e-6)
    assert max(sizes) <= size
    assert sum(sizes) == len(set(TEXTS))


@pytest.mark.parametrize("size", [0, -1, 2.5, True, "32"])
def test_batch_size_is_a_count(model: Any, size: Any) -> None:
    with pytest.raises(UserError, match="batch_size is"):
        model.encode(TEXTS, batch_size=size)


def test_device(model: Any) -> None:
    np.testing.assert_array_equal(model.encode(TEXTS, device="cpu"), model.encode(TEXTS))
    for name in ("nowhere", "cuda:99"):
        with pytest.raises(UserError, match=f"no device '{name}'"):
            model.encode(TEXTS, device=name)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"precision": "int8"}, "int8 vectors need the range of each coordinate; learn them once"),
        ({"precision": "int4"}, "unknown precision 'int4'"),
        ({"output_value": "token_embeddings"}, "model.token_states"),
        ({"device": ["cpu", "cpu"]}, "torchrun"),
        ({"pool": {}}, "torchrun"),
        ({"chunk_size": 10}, "torchrun"),
        ({"show_progres_bar": True}, "no argument 'show_progres_bar'; did you mean 'show_progress_bar'"),
        ({"truncate_dim": 99}, "truncate_dim is 99"),
    ],
)
def test_what_has_no_effect_is_refused(model: Any, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        model.encode(TEXTS, **settings)


def test_queries_and_documents(model: Any) -> None:
    np.testing.assert_array_equal(model.encode_query(TEXTS), model.encode(TEXTS, prompt="query"))
    np.testing.assert_array_equal(model.encode_document(TEXTS), model.encode(TEXTS, prompt="passage"))
    np.testing.assert_array_equal(model.encode_query(TEXTS, prompt=""), model.encode(TEXTS, prompt=""))
    np.testing.assert_array_equal(model.encode_query(TEXTS, prompt_name="plain"), model.encode(TEXTS, prompt=""))
    assert model.encode_query("the dog", convert_to_tensor=True).shape == (model.dim,)
    other = tiny.text_encoder(prompts={"sts": "a "}, default_prompt="sts")
    np.testing.assert_array_equal(other.encode_query(TEXTS), other.encode(TEXTS))  # the default prompt
    first = tiny.text_encoder(prompts={"corpus": "a ", "document": "the "})
    np.testing.assert_array_equal(first.encode_document(TEXTS), first.encode(TEXTS, prompt="document"))


def test_a_default_prompt_that_is_none_is_told(model: Any) -> None:
    other = copy.deepcopy(model)
    other.default_prompt = "queri"
    with pytest.raises(UserError, match="the default prompt 'queri' is no prompt; did you mean 'query'"):
        other.encode(TEXTS)


# similarity -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", SIMILARITIES)
def test_similarity_is_that_of_sentence_transformers(name: str) -> None:
    library = pytest.importorskip("sentence_transformers")
    function = library.SimilarityFunction.to_similarity_fn(name)
    rng = np.random.default_rng(3)
    a, b = rng.normal(size=(4, 6)).astype(np.float32), rng.normal(size=(5, 6)).astype(np.float32)
    a[1] = 0  # a text without a known word
    np.testing.assert_allclose(similarity_matrix(name, a, b), function(a, b).numpy(), atol=1e-5)


@pytest.mark.parametrize("name", SIMILARITIES)
def test_the_function_of_the_model_is_used_and_kept(name: str, tmp_path: Any) -> None:
    from embedkit.formats import load

    model = tiny.text_encoder(similarity_fn_name=name, normalize=False)
    vectors = model.encode(TEXTS)
    np.testing.assert_array_equal(model.similarity(vectors, vectors), similarity_matrix(name, vectors, vectors))
    np.testing.assert_array_equal(model.similarity(TEXTS, TEXTS[:2]), model.similarity(vectors, vectors[:2]))
    model.save(tmp_path / "m")
    again = load(tmp_path / "m", device="cpu")
    assert again.similarity_fn_name == name
    assert again.hash() == model.hash()


def test_similarity_of_one_text_of_tensors_and_of_lists(model: Any) -> None:
    vectors = model.encode(TEXTS)
    assert model.similarity("the dog", TEXTS).shape == (1, len(TEXTS))
    tensors = list(torch.from_numpy(vectors))
    np.testing.assert_array_equal(model.similarity(tensors, vectors.tolist()), model.similarity(vectors, vectors))
    with pytest.raises(UserError, match="32 and 3 coordinates"):
        model.similarity(vectors, np.ones((1, 3)))
    with pytest.raises(UserError, match="shape"):
        model.similarity(np.ones((1, 2, 3)), vectors)
    with pytest.raises(UserError, match="neither texts nor vectors"):
        similarity_matrix("cosine", [[1.0], [1.0, 2.0]], vectors)


def test_an_unknown_function_is_refused_by_constructor_and_setter(model: Any) -> None:
    with pytest.raises(ModelError, match="unknown similarity function 'cosin'; did you mean 'cosine'"):
        tiny.text_encoder(similarity_fn_name="cosin")
    with pytest.raises(ModelError, match="unknown similarity function 'l2'"):
        copy.deepcopy(model).similarity_fn_name = "l2"


# copies and cards -----------------------------------------------------------------------------------------------------

KINDS: dict[str, Callable[[], Any]] = {
    "bert": lambda: tiny.text_encoder(prompts={"q": "who "}),
    "modernbert": lambda: tiny.text_encoder("modernbert", pooling="last-token"),
    "t5": lambda: tiny.text_encoder("t5"),
    "static": lambda: dual.text_tower("static"),
    "clip": lambda: dual.dual("clip", "clip", cleaning="lower"),
    "siglip": lambda: dual.dual("siglip", "siglip"),
    "open_clip": lambda: dual.dual("bert", "open_clip-vit"),
    "resnet": lambda: dual.dual("promptbert", "open_clip-resnet"),
    "timm": lambda: dual.dual("static", "timm-convnext"),
    "dinov2": lambda: dual.dual("simcse", "dinov2"),
}


def inputs_of(model: Any) -> list[Any]:
    return [*TEXTS, *(dual.images(2) if model.preprocess is not None else [])]


@pytest.mark.parametrize("name", KINDS)
def test_a_copy_gives_equal_vectors(name: str) -> None:
    model = KINDS[name]()
    vectors = model.encode(inputs_of(model))
    sent = ForkingPickler.loads(ForkingPickler.dumps(model))  # as processes hand it on
    for other in (copy.deepcopy(model), sent):
        assert other.hash() == model.hash()
        np.testing.assert_array_equal(other.encode(inputs_of(model)), vectors)


@pytest.mark.parametrize("name", KINDS)
def test_the_card_is_short(name: str) -> None:
    model = KINDS[name]()
    card = repr(model)
    assert len(card.splitlines()) <= 12
    assert max(len(line) for line in card.splitlines()) <= 120
    count = sum(parameter.numel() for parameter in model.parameters())
    for fact in (model.kind, str(model.dim), f"{count:,}", "cpu", "float32", type(model).__name__):
        assert fact in card
    html = model._repr_html_()
    assert html.startswith("<table>")
    assert f"<td>{count:,}</td>" in html


def test_the_card_names_prompts_and_what_is_trained() -> None:
    model = tiny.text_encoder(prompts={"q": "<b>who</b> " + "x" * 60, "d": "the "}, default_prompt="d")
    model.encoder.embeddings.requires_grad_(False)
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    card = repr(model)
    assert f"({trained:,} trained)" in card
    assert "d 'the ' (default)" in card
    assert "..." in card
    assert "&lt;b&gt;" in model._repr_html_()
