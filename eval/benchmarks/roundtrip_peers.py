"""Round trips with the owners of the other folder forms, for `roundtrip.py`: each row is one form and one direction."""

from __future__ import annotations

import dataclasses
import logging
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np

READS, WRITES = "peer writes, embedkit reads", "embedkit writes, peer reads"
OPEN_CLIP_SHAPES = (
    "ViT-B-32", "RN50", "convnext_base", "ViT-B-16-SigLIP", "coca_ViT-B-32", "roberta-ViT-B-32", "ViT-L-14-CLIPA",
)  # fmt: skip
PACKAGES = {"open_clip": "open_clip_torch"}


@dataclass(frozen=True)
class Trip:
    """One row: what is compared, by whom, and the function that returns the largest difference.

    With `refused`, a refusal by embedkit is what is expected, and its reason is shown; with `differs`, a difference
    that docs/differences.md explains.
    """

    form: str
    direction: str
    peer: str
    difference: Callable[[], float]
    refused: bool = False
    differs: bool = False

    def row(self, bound: float) -> tuple[list[str], bool]:
        """The cells, and whether they are as expected: a difference below `bound`, or a refusal."""
        from embedkit.errors import UserError

        try:
            number = version(PACKAGES.get(self.peer, self.peer))
        except PackageNotFoundError:
            return [self.form, self.direction, self.peer, "not installed"], True
        cells = [self.form, self.direction, f"{self.peer} {number}"]
        try:
            value = self.difference()
        except UserError as error:
            return [*cells, f"refused: {str(error).split(': ', 1)[-1].split('; ')[0]}"], self.refused
        except Exception as error:
            return [*cells, f"failed: {type(error).__name__}: {str(error).splitlines()[0]}"], False
        if self.differs:
            return [*cells, f"{value:.1e}, on purpose (differences.md)"], bound < value < float("inf")
        return [*cells, f"{value:.1e}"], not self.refused and value < bound


def apart(ours: Any, theirs: Any) -> float:
    """The largest difference of a coordinate, in relation to the largest value where that is above 1."""
    a, b = np.asarray(ours, dtype=np.float64), np.asarray(theirs, dtype=np.float64)
    if a.shape != b.shape:
        return float("inf")
    return float(np.abs(a - b).max() / max(1.0, float(np.abs(b).max())))


def unit(vectors: Any) -> np.ndarray:
    """Rows of length 1."""
    rows = np.asarray(vectors, dtype=np.float64)
    return rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12)


def texts() -> list[str]:
    """Sentences without the empty one, which has no vector in some of the libraries."""
    from tests.helpers import tiny

    return [text for text in tiny.SENTENCES if text]


def load(folder: Path | str, **settings: Any) -> Any:
    """embedkit's model of a folder, on the CPU; what embedkit itself noted beside other forms is taken away."""
    import embedkit

    if isinstance(folder, Path):
        (folder / "embedkit.json").unlink(missing_ok=True)
    return embedkit.load(folder, device="cpu", **settings)


def hub(folder: Path, name: str) -> str:
    """The id under which a copy of `folder` lies in the hub's cache, in the layout that its client writes."""
    place = Path(os.environ["HF_HUB_CACHE"]) / f"models--roundtrip--{name}"
    commit = "0123456789abcdef0123456789abcdef01234567"
    shutil.copytree(folder, place / "snapshots" / commit)
    (place / "refs").mkdir()
    (place / "refs" / "main").write_text(commit)
    return f"roundtrip/{name}"


# --- texts -----------------------------------------------------------------------------------------------------------


def by_transformers(folder: Path, last: bool = False) -> np.ndarray:
    """transformers' vectors of a bare folder, one text at a time: mean or last token, not normalised."""
    import torch
    from transformers import AutoConfig, AutoModel, AutoTokenizer, T5EncoderModel

    kind = T5EncoderModel if AutoConfig.from_pretrained(folder).model_type == "t5" else AutoModel
    model = kind.from_pretrained(folder, dtype=torch.float32).eval()
    return pooled(model, AutoTokenizer.from_pretrained(folder), last)


def pooled(model: Any, words: Any, last: bool = False) -> np.ndarray:
    """Mean or last state of each text by a model of transformers."""
    import torch

    with torch.inference_mode():
        states = [model(**words([text], return_tensors="pt")).last_hidden_state[0] for text in texts()]
    return torch.stack([rows[-1] if last else rows.mean(0) for rows in states]).numpy()


def text_trips(folder: Path) -> Iterator[Trip]:
    """Bare transformers folders, exports to them and to ONNX, and folders in the hub's cache."""
    import embedkit
    from embedkit.models.heads.layers import Dense
    from tests.helpers import architectures, tiny

    for family in ("bert", "roberta", "modernbert", "t5", "qwen3"):
        last, bare = family in architectures.DECODERS, architectures.encoder_folder(family, folder / f"hf-{family}")
        yield Trip(
            f"transformers, {family}", READS, "transformers",
            lambda at=bare, last=last: apart(load(at).encode(texts()), by_transformers(at, last)),
        )  # fmt: skip

        def written(at: Path = bare, last: bool = last) -> float:
            model = load(at)
            out = embedkit.export(model, Path(f"{at}-ours"), format="transformers")
            return apart(by_transformers(out, last), model.encode(texts()))

        yield Trip(f"transformers, {family}", WRITES, "transformers", written)
    dense = tiny.text_encoder("bert", dense=[Dense(32, 8)])
    yield Trip(
        "transformers, Dense behind the mean", WRITES, "transformers",
        lambda: apart(by_transformers(embedkit.export(dense, folder / "two", format="transformers")), 0), refused=True,
    )  # fmt: skip
    yield Trip("ONNX, text", WRITES, "onnxruntime", lambda: onnx_text(folder / "onnx"))


def onnx_text(folder: Path) -> float:
    """Difference of an exported text graph."""
    import onnxruntime

    import embedkit
    from tests.helpers import tiny

    model = tiny.text_encoder("bert", normalize=True)
    embedkit.export(model, folder, format="onnx")
    session = onnxruntime.InferenceSession(str(folder / "model.onnx"), providers=["CPUExecutionProvider"])
    rows = model.prepare(texts()).rows()
    longest = max(map(len, rows))
    ids = np.array([row + [0] * (longest - len(row)) for row in rows])
    mask = np.array([[1] * len(row) + [0] * (longest - len(row)) for row in rows])
    return apart(session.run(None, {"input_ids": ids, "attention_mask": mask})[0], model.encode(texts()))


def sentence_transformers_trips(folder: Path) -> Iterator[Trip]:
    """What only sentence-transformers writes: routes, adapters, the hub's cache, modules that embedkit has not."""
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer import modules

    from tests.helpers import architectures

    peer = "sentence-transformers"
    base = str(architectures.encoder_folder("bert", folder / "base"))
    encoder = [modules.Transformer(base), modules.Pooling(32)]
    router = modules.Router.for_query_document(
        query_modules=[*encoder, modules.Dense(32, 8)], document_modules=[*encoder, modules.Normalize()]
    )
    routed = SentenceTransformer(modules=[router], device="cpu")
    routed.save(str(folder / "router"))
    for route in ("query", "document"):
        theirs = getattr(routed, f"encode_{route}")(texts(), show_progress_bar=False)
        yield Trip(
            f"Router, route={route}", READS, peer,
            lambda route=route, theirs=theirs: apart(load(folder / "router", route=route).encode(texts()), theirs),
        )  # fmt: skip
    yield Trip(
        "Router, no route named", READS, peer, lambda: apart(load(folder / "router").encode(texts()), 0), refused=True
    )
    plain = SentenceTransformer(modules=[*encoder, modules.Normalize()], device="cpu")
    plain.save(str(folder / "plain"))
    vectors = plain.encode(texts(), show_progress_bar=False)
    yield Trip(
        "hub id in the hub's cache", READS, peer,
        lambda: apart(load(hub(folder / "plain", "text")).encode(texts()), vectors),
    )  # fmt: skip

    def ours_in_the_hub() -> float:
        model = load(folder / "plain")
        name = hub(model.save(folder / "ours"), "ours")
        theirs = SentenceTransformer(name, device="cpu").encode(texts(), show_progress_bar=False)
        return apart(theirs, model.encode(texts()))

    yield Trip("hub id in the hub's cache", WRITES, peer, ours_in_the_hub)


def peft_trips(folder: Path) -> Iterator[Trip]:
    """Adapters beside their base, as peft and as sentence-transformers write them; merged when embedkit writes."""
    import embedkit
    from tests.helpers import architectures, tiny

    base = architectures.encoder_folder("bert", folder / "adapter-base")

    def adapter(name: str, **settings: Any) -> tuple[Path, np.ndarray]:
        import peft
        from transformers import AutoModel

        options = {"r": 4, "target_modules": "all-linear", "init_lora_weights": False, **settings}
        model = peft.get_peft_model(
            AutoModel.from_pretrained(base), peft.LoraConfig(task_type="FEATURE_EXTRACTION", **options)
        ).eval()
        model.save_pretrained(folder / name)
        return folder / name, pooled(model, tiny.tokenizer())

    def read(name: str, **settings: Any) -> float:
        at, theirs = adapter(name, **settings)
        return apart(load(at).encode(texts()), theirs)

    def merged(name: str) -> float:
        at, theirs = adapter(name)
        return apart(by_transformers(embedkit.export(load(at), folder / "merged", format="transformers")), theirs)

    for name, settings in {"LoRA": {}, "DoRA": {"use_dora": True}, "rsLoRA": {"use_rslora": True}}.items():
        yield Trip(f"peft, {name} with its base", READS, "peft", lambda n=name, s=settings: read(n, **s))
    yield Trip("peft, LoRA merged", WRITES, "transformers", lambda: merged("merge"))
    yield Trip(
        "peft, PiSSA by randomised SVD", READS, "peft",
        lambda: read("pissa", init_lora_weights="pissa_niter_4"), refused=True,
    )  # fmt: skip


def model2vec_trips(folder: Path) -> Iterator[Trip]:
    """Static tables of model2vec, plain and normalised, and embedkit's static encoder read by it."""
    from embedkit.models.modules.static import StaticEncoder
    from tests.helpers import tiny

    words = tiny.tokenizer()

    def read(sentences: list[str], normalize: bool = False) -> float:
        from model2vec import StaticModel

        table = np.random.default_rng(0).normal(size=(len(words), 12)).astype(np.float32)
        model = StaticModel(table, words.backend_tokenizer, normalize=normalize)
        at = Path(tempfile.mkdtemp(dir=folder)) / "m"
        model.save_pretrained(at)
        return apart(load(at).encode(sentences), model.encode(sentences))

    def written(normalize: bool) -> float:
        from model2vec import StaticModel

        model = StaticEncoder(words, 12, normalize=normalize).eval()
        at = model.save(folder / f"static-{normalize}")
        return apart(StaticModel.from_pretrained(at, force_download=False).encode(known), model.encode(known))

    known = [text for text in texts() if words.unk_token_id not in words(text)["input_ids"]]
    yield Trip("model2vec", READS, "model2vec", lambda: read(known))
    yield Trip("model2vec, normalised", READS, "model2vec", lambda: read(known, normalize=True))
    yield Trip("model2vec, unknown words", READS, "model2vec", lambda: read(["the xyzzy dog"]), differs=True)
    yield Trip("static encoder", WRITES, "model2vec", lambda: written(False))
    yield Trip("static encoder, normalised", WRITES, "model2vec", lambda: written(True))


# --- images and texts ------------------------------------------------------------------------------------------------


def pictures_and_captions() -> tuple[list[str], list[Any]]:
    """Captions that are easy to get wrong and pictures of odd shapes."""
    from embedkit.formats.parity import probe_images, probe_texts

    return probe_texts(12), probe_images(6)


def by(reader: str, folder: Path) -> np.ndarray:
    """Unit vectors of the captions, then of the pictures, by a library."""
    from embedkit.formats.parity import READERS

    return np.concatenate([unit(vectors) for vectors in READERS[reader](folder, *pictures_and_captions())])


def by_embedkit(model: Any, reader: str = "") -> np.ndarray:
    """embedkit's unit vectors; with `reader`, an odd margin of the crop is split as that library does it."""
    own = model.preprocess
    if reader:
        model.preprocess = dataclasses.replace(own, crop="round" if reader == "open_clip" else "truncate")
    captions, pictures = pictures_and_captions()
    vectors = np.concatenate([unit(model.encode(captions)), unit(model.encode(pictures))])
    model.preprocess = own
    return vectors


def resaved(folder: Path, library: str) -> Path:
    """A folder that `library` writes after it has read `folder`."""
    out = Path(f"{folder}-{library}")
    if library == "sentence-transformers":
        from sentence_transformers import SentenceTransformer

        SentenceTransformer(str(folder), device="cpu", processor_kwargs={"backend": "pil"}).save(str(out))
        return out
    from transformers import AutoModel, AutoProcessor

    AutoModel.from_pretrained(folder).save_pretrained(out)
    AutoProcessor.from_pretrained(folder, backend="pil").save_pretrained(out)
    return out


def dual_trips(folder: Path) -> Iterator[Trip]:
    """CLIP, SigLIP and a mixed pair: exports read by each library, and folders that it writes of them again."""
    import embedkit
    from embedkit.models.inputs.preprocess import Preprocess
    from tests.helpers import dual

    squash = Preprocess(size=(32, 32), resize="squash", mean=(0.5,) * 3, std=(0.5,) * 3)
    siglip = dual.dual("siglip", "siglip", cleaning="canonicalize")
    mixed = dual.dual("simcse", "vit")
    siglip.preprocess, mixed.preprocess, mixed.image.pooling = squash, squash, "pooler"
    clip = dual.dual("clip", "open_clip-vit", clip=True, cleaning="lower")
    both = ["transformers", "sentence-transformers"]
    for name, model, format, readers in [
        ("CLIP", clip, "clip", ["open_clip", *both]), ("SigLIP", siglip, "transformers", both),
        ("BERT and ViT (VisionTextDualEncoder)", mixed, "transformers", ["transformers"]),
    ]:  # fmt: skip
        at = embedkit.export(model, folder / name.split()[0], format=format, samples=8)
        form = f"{name}, format={format}"
        for reader in readers:
            yield Trip(form, WRITES, reader, lambda m=model, r=reader, at=at: apart(by(r, at), by_embedkit(m, r)))
        for reader in (r for r in readers if r != "open_clip"):

            def again(r: str = reader, at: Path = at) -> float:
                theirs = resaved(at, r)
                return apart(by_embedkit(load(theirs)), by(r, theirs))

            yield Trip(f"{name}, as {reader} saves it", READS, reader, again)
    yield Trip("CLIP, ONNX graphs", WRITES, "onnxruntime", lambda: onnx_dual(clip, folder / "clip-onnx"))
    odd = dual.dual("bert", "vit")
    yield Trip(
        "BERT without pooler and ViT", WRITES, "transformers",
        lambda: apart(by("transformers", embedkit.export(odd, folder / "odd", format="transformers")), 0), refused=True,
    )  # fmt: skip


def onnx_dual(model: Any, folder: Path) -> float:
    """Difference of the two graphs of a dual encoder."""
    import onnxruntime

    import embedkit
    from embedkit.formats.onnx.text_graph import padded

    embedkit.export(model, folder, format="onnx", samples=8)
    captions, pictures = pictures_and_captions()
    ids, mask = padded(model.text.prepare(captions), model.text.encoder)
    inputs = {
        "text": {"input_ids": ids.numpy(), "attention_mask": mask.numpy()},
        "image": {"pixel_values": model.pixels(model.prepare(pictures)).numpy()},
    }
    found = [
        onnxruntime.InferenceSession(str(folder / f"{side}.onnx"), providers=["CPUExecutionProvider"]).run(None, given)
        for side, given in inputs.items()
    ]
    return apart(np.concatenate([unit(vectors) for (vectors,) in found]), by_embedkit(model))


def open_clip_trips(folder: Path) -> Iterator[Trip]:
    """Shrunk configurations as open_clip's own writer for the hub saves them, and embedkit's exports of the same."""
    import embedkit

    for name in OPEN_CLIP_SHAPES:
        at = folder / f"oc-{name}"

        def read(at: Path = at, name: str = name) -> float:
            write_open_clip(name, at)
            return apart(by_embedkit(load(at)), by("open_clip", at))

        def written(at: Path = at) -> float:
            model = load(at)
            out = embedkit.export(model, Path(f"{at}-ours"), format="open_clip", samples=8)
            return apart(by("open_clip", out), by_embedkit(model))

        yield Trip(f"open_clip, {name}", READS, "open_clip", read)
        yield Trip(f"open_clip, {name}", WRITES, "open_clip", written, refused=name.startswith("roberta"))
    yield Trip("hf-hub: name in the hub's cache", READS, "open_clip", lambda: open_clip_hub(folder / "oc-ViT-B-32"))
    yield Trip(
        "hf-hub: name in the hub's cache", WRITES, "open_clip", lambda: open_clip_hub(folder / "oc-ViT-B-32-ours")
    )


def write_open_clip(name: str, folder: Path) -> None:
    """A folder of a shrunk configuration, written by open_clip's `save_for_hf`."""
    from open_clip.factory import set_model_preprocess_cfg
    from open_clip.push_to_hf_hub import save_for_hf

    from tests.helpers import dual, open_clip_shapes, tiny

    model = open_clip_shapes.write(name, Path(f"{folder}-weights"))
    config = open_clip_shapes.shrunk(name, folder)
    side = config["vision_cfg"]["image_size"]
    set_model_preprocess_cfg(
        model, {"size": side, "mean": [0.5] * 3, "std": [0.25] * 3, "interpolation": "bicubic",
                "resize_mode": "shortest"},
    )  # fmt: skip
    words = tiny.tokenizer() if config["text_cfg"].get("hf_tokenizer_name") else dual.bpe()
    save_for_hf(model, words, config, str(folder), safe_serialization=True)


def open_clip_hub(folder: Path) -> float:
    """Difference of open_clip's and embedkit's vectors of the same ``hf-hub:`` name."""
    import open_clip
    import torch

    name = f"hf-hub:{hub(folder, folder.name)}"
    captions, pictures = pictures_and_captions()
    model, transform = open_clip.create_model_from_pretrained(name)
    with torch.inference_mode():
        text = model.eval().encode_text(open_clip.get_tokenizer(name)(captions))
        image = model.encode_image(torch.stack([transform(picture) for picture in pictures]))
    return apart(by_embedkit(load(name)), np.concatenate([unit(text.numpy()), unit(image.numpy())]))


def trips(folder: Path) -> Iterator[Trip]:
    """All of them."""
    for make in (
        text_trips, sentence_transformers_trips, peft_trips, model2vec_trips, dual_trips, open_clip_trips
    ):  # fmt: skip
        (folder / make.__name__).mkdir()
        yield from make(folder / make.__name__)


def show(folder: Path, bound: float) -> bool:
    """Print a row for each trip; whether all are as expected."""
    from transformers.utils import logging as noise

    noise.set_verbosity_error()
    noise.disable_progress_bar()
    logging.disable(logging.WARNING)
    good = True
    print("\n| form | direction | peer and version | largest difference |\n|---|---|---|---|")
    for trip in trips(folder):
        cells, expected = trip.row(bound)
        print(f"| {' | '.join(cells)} |", flush=True)
        good &= expected
    return good
