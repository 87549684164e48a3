"""Model folders, runs and vectors that carry a pickle or code of their own."""

from __future__ import annotations

import hashlib
import json
import pickle
import shutil
from pathlib import Path
from typing import Any

from tests.faults.frame import Outcome, World, case, command
from tests.faults.hostile import UNSAFE, Canary, edit_json, environment, model_copy, quietly, refused

PICKLES = (
    "pytorch_model.bin", "model.pt", "weights.pth", "model.pkl", "last.ckpt", "optimizer.bin", "scheduler.bin",
    "random_states_0.pkl", "custom_checkpoint_0.pkl", "adapter_model.bin", "training_args.bin", ".metadata",
)  # fmt: skip


def _load(folder: Path, **settings: Any) -> Any:
    from embedkit.formats import load

    return load(folder, device="cpu", **settings)


@case("security", "the payload runs where a pickle is read without care")
def control(world: World) -> Outcome:
    import numpy as np
    import torch

    canary = Canary(world.folder)
    pickle.loads(canary.bytes)  # noqa: S301 - that is the point
    assert canary.ran(), "the payload of these cases does nothing, so they prove nothing"
    canary.torch(world.folder / "w.bin")
    torch.load(world.folder / "w.bin", weights_only=False)
    assert canary.ran()
    with environment(**UNSAFE):
        torch.load(world.folder / "w.bin")
    assert canary.ran(), "the variable has no effect: cases under it prove nothing"
    canary.numpy(world.folder / "v.npy")
    np.load(world.folder / "v.npy", allow_pickle=True)
    assert canary.ran()
    return Outcome("pickle.loads, torch.load, np.load(allow_pickle): the canary was made each time", 4, "control")


@case("security", "weights that are a pickle, in every kind of model folder")
def weights(world: World) -> Outcome:
    canary, said, tries = Canary(world.folder), "", 0
    for kind in ("own", "transformers", "clip", "open_clip"):
        for name in ("pytorch_model.bin", "model.pt", "weights.pth", "model.pkl", "last.ckpt", "open_clip"):
            if (kind == "open_clip") != (name == "open_clip"):
                continue
            name = "open_clip_pytorch_model.bin" if kind == "open_clip" else name
            folder = model_copy(kind, world.folder / "m")
            for file in folder.glob("*.safetensors"):
                file.unlink()
            for raw in (True, False):
                (folder / name).write_bytes(canary.bytes) if raw else canary.torch(folder / name)
                for variables in ({}, UNSAFE):
                    with environment(**variables):
                        said = refused(lambda: _load(folder), "pickle")  # noqa: B023 - called at once
                        refused(lambda: _load(folder, allow_pickle=True))  # noqa: B023
                        assert canary.alive(), f"{kind}/{name} ran"
                        tries += 2
            shutil.rmtree(folder)
    return Outcome(said, tries, "refused")


@case("security", "a pickle beside good weights, and one named by the index of shards")
def beside(world: World) -> Outcome:
    canary, tries = Canary(world.folder), 0
    folder = model_copy("transformers", world.folder / "m")
    for name in PICKLES:
        (folder / name).write_bytes(canary.bytes)
    for variables in ({}, UNSAFE):
        with environment(**variables):
            quietly(lambda: _load(folder))
            quietly(lambda: _load(folder, allow_pickle=True))
            assert canary.alive(), "a pickle beside the weights ran"
            tries += 2 * len(PICKLES)
    for name in PICKLES:
        (folder / name).unlink()
    (folder / "model.safetensors").rename(folder / "other.safetensors")
    canary.torch(folder / "part-1.bin")
    tensors = {"embeddings.word_embeddings.weight": "part-1.bin"}
    edit_json(folder / "model.safetensors.index.json", metadata={"total_size": 1}, weight_map=tensors)
    said = ""
    for variables in ({}, UNSAFE):
        with environment(**variables):
            said = refused(lambda: _load(folder))
            refused(lambda: _load(folder, allow_pickle=True))
            tries += 2
    (folder / "model.safetensors.index.json").unlink()
    edit_json(folder / "config.json", transformers_weights="part-1.bin")
    for variables in ({}, UNSAFE):
        with environment(**variables):
            refused(lambda: _load(folder))
            refused(lambda: _load(folder, allow_pickle=True))
            tries += 2
    assert canary.alive()
    return Outcome(said, tries, "refused")


@case("security", "an adapter of peft in a model folder")
def adapter(world: World) -> Outcome:
    canary = Canary(world.folder)
    folder = model_copy("transformers", world.folder / "m")
    edit_json(folder / "adapter_config.json", peft_type="LORA", base_model_name_or_path="evil/model")
    canary.torch(folder / "adapter_model.bin")
    said = ""
    for variables in ({}, UNSAFE):
        with environment(**variables):
            said = refused(lambda: _load(folder), "adapter")
            refused(lambda: _load(folder, allow_pickle=True), "adapter")
    assert canary.alive()
    return Outcome(said, 4, "refused")


@case("security", "a masked language model of a view, and a guide, whose weights are a pickle")
def views(world: World) -> Outcome:
    from embedkit.views.lookup import MaskedLM

    canary = Canary(world.folder)
    folder = model_copy("transformers", world.folder / "m")
    (folder / "model.safetensors").unlink()
    canary.torch(folder / "pytorch_model.bin")
    said = ""
    for variables in ({}, UNSAFE):
        with environment(**variables):
            said = refused(lambda: MaskedLM(str(folder))(["a", "dog"], [1]), "pickle")
            from embedkit.formats.transformers.masked_head import frozen_masked_model

            refused(lambda: frozen_masked_model(str(folder)), "pickle")
    assert canary.alive()
    return Outcome(said, 4, "refused")


@case("security", "tokenizers: pickles in place of their files, a class of their own")
def tokenizers(world: World) -> Outcome:
    canary, said = Canary(world.folder), ""
    files = ("tokenizer.json", "tokenizer_config.json", "vocab.txt", "special_tokens_map.json", "added_tokens.json")
    for tries, name in enumerate(files):
        folder = model_copy("transformers", world.folder / f"m{tries}")
        if name == "vocab.txt":
            (folder / "tokenizer.json").unlink()
        (folder / name).write_bytes(canary.bytes)
        found = quietly(lambda: _load(folder))  # noqa: B023 - called at once
        said = str(found) if isinstance(found, Exception) else said
        assert canary.alive(), name
    folder = model_copy("transformers", world.folder / "own-class")
    (folder / "tokenization_evil.py").write_text(canary.code)
    edit_json(folder / "tokenizer_config.json", tokenizer_class="Evil")
    quietly(lambda: _load(folder))
    edit_json(folder / "tokenizer_config.json", auto_map={"AutoTokenizer": ["tokenization_evil.Evil", None]})
    said = refused(lambda: _load(folder), "auto_map")
    assert canary.alive()
    return Outcome(said, len(files) + 2, "refused")


@case("security", "code that a model folder brings along")
def remote_code(world: World) -> Outcome:
    canary, said, tries = Canary(world.folder), "", 0
    for kind, name, key in (
        ("transformers", "config.json", "AutoModel"), ("transformers", "config.json", "AutoConfig"),
        ("transformers", "tokenizer_config.json", "AutoTokenizer"), ("clip", "config.json", "AutoModel"),
        ("clip", "preprocessor_config.json", "AutoImageProcessor"), ("clip", "processor_config.json", "AutoProcessor"),
        ("open_clip", "config.json", "AutoModel"),
    ):  # fmt: skip
        folder = model_copy(kind, world.folder / "m")
        for file in ("modeling_evil.py", "configuration_evil.py", "tokenization_evil.py", "evil.py"):
            (folder / file).write_text(canary.code)
        edit_json(folder / name, auto_map={key: "modeling_evil.Evil"})
        said = refused(lambda: _load(folder), "brings its own code")  # noqa: B023 - called at once
        assert str(folder / name) in said and "trust_remote_code=True" in said, said
        edit_json(folder / name, auto_map={key: "modeling_evil.Evil"}, model_type="evil", trust_remote_code=True)
        refused(lambda: _load(folder), "brings its own code")  # noqa: B023
        (world.folder / "t.txt").write_text("a dog\n")
        ended = command("encode", folder, "--input", world.folder / "t.txt", "--output", world.folder / "v.npy")
        ended.line("brings its own code")
        assert canary.alive(), f"{kind}/{name}"
        tries += 3
        shutil.rmtree(folder)
    return Outcome(said, tries, "refused")


@case("security", "modules of sentence-transformers that are classes from elsewhere, or lie elsewhere")
def modules(world: World) -> Outcome:
    canary, said, tries = Canary(world.folder), "", 0
    model_copy("transformers", world.folder / "elsewhere")
    for kind in (
        "modeling_evil.Evil", "subprocess.Popen", "os.system", "builtins.exec",
        "sentence_transformers.evil.Transformer", "sentence_transformers.models.Evil",
        "Transformer", "", "sentence_transformers..Transformer",
    ):  # fmt: skip
        folder = model_copy("transformers", world.folder / "m")
        (folder / "modeling_evil.py").write_text(canary.code)
        listed = [{"idx": 0, "name": "0", "path": "", "type": kind}]
        (folder / "modules.json").write_text(json.dumps(listed))
        found = quietly(lambda: _load(folder))  # noqa: B023 - called at once
        if kind.startswith("sentence_transformers") and kind.endswith(".Transformer"):
            assert canary.alive()  # the last part says which of embedkit's own readers is meant; nothing is imported
        else:
            said = str(found)
            assert "is not known" in said, f"{kind}: {found}"
        for path in ("../elsewhere", "/etc", str(world.folder / "elsewhere"), "a/../../elsewhere"):
            listed = [{"idx": 0, "name": "0", "path": path, "type": "sentence_transformers.models.Transformer"}]
            (folder / "modules.json").write_text(json.dumps(listed))
            refused(lambda: _load(folder), "leaves the model folder")  # noqa: B023
            tries += 1
        (folder / "link").symlink_to(world.folder / "elsewhere")
        listed[0]["path"] = "link"
        (folder / "modules.json").write_text(json.dumps(listed))
        refused(lambda: _load(folder), "leaves the model folder")  # noqa: B023
        tries += 2
        shutil.rmtree(folder)
    assert canary.alive()
    own = model_copy("own", world.folder / "own")
    saved = json.loads((own / "embedkit.json").read_text())
    layer = {"folder": "../elsewhere", "inputs": 32, "outputs": 32, "activation": "tanh", "train_only": False}
    saved["spec"]["dense"] = [layer]
    (own / "embedkit.json").write_text(json.dumps(saved))
    refused(lambda: _load(own), "leaves the model folder")
    return Outcome(said, tries + 1, "refused")


@case("security", "a file that asks to be trusted: recipe, configuration, settings of sentence-transformers")
def trust_in_files(world: World) -> Outcome:
    from embedkit.config.recipe_io import load_recipe
    from tests.training import runs

    canary = Canary(world.folder)
    good = runs.recipe()
    said = ""
    for section in ("data", "train"):
        given = {**good, section: {**good[section], "trust_remote_code": True}}
        said = refused(lambda: load_recipe(given), "unknown key")  # noqa: B023 - called at once
    given = {**good, "data": {"train": [{**good["data"]["train"][0], "trust_remote_code": True}]}}
    refused(lambda: load_recipe(given), "unknown key")
    refused(lambda: load_recipe({**good, "trust_remote_code": True}), "unknown key")
    for key in ("trust_remote_code", "allow_pickle"):  # a file cannot ask for it; who starts the run can
        file = world.folder / f"{key}.yaml"
        file.write_text(json.dumps({**good, "model": {**good["model"], key: True}}))
        said = refused(lambda: load_recipe(file), f"a file cannot allow {key}")  # noqa: B023 - called at once
        assert getattr(load_recipe(good, [f"model.{key}=true"]).model, key)
    folder = model_copy("transformers", world.folder / "m")
    (folder / "modeling_evil.py").write_text(canary.code)
    for name in ("sentence_bert_config.json", "config_sentence_transformers.json"):
        trusting = {"trust_remote_code": True}
        edit_json(folder / name, model_args=trusting, tokenizer_args=trusting, config_args=trusting)
    listed = [
        {"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.models.Transformer"},
        {"idx": 1, "name": "1", "path": "1_Pooling", "type": "sentence_transformers.models.Pooling"},
    ]
    (folder / "modules.json").write_text(json.dumps(listed))
    (folder / "1_Pooling").mkdir()
    edit_json(folder / "1_Pooling" / "config.json", pooling_mode="mean")
    assert not isinstance(quietly(lambda: _load(folder)), Exception)  # the request is not heard
    edit_json(folder / "config.json", auto_map={"AutoModel": "modeling_evil.Evil"})
    refused(lambda: _load(folder), "brings its own code")
    assert canary.alive()
    return Outcome(said, 10, "refused")


@case("security", "names in a configuration that would be fetched: kernels, towers, tokenizers, timm's hub")
def names_of_code(world: World) -> Outcome:
    said, folder = "", model_copy("transformers", world.folder / "m")
    for name in ("attn_implementation", "_attn_implementation"):
        edit_json(folder / "config.json", **{name: "kernels-community/flash-attn"})
        said = refused(lambda: _load(folder), "kernels")  # noqa: B023 - called at once
        shutil.rmtree(folder)
        folder = model_copy("transformers", world.folder / "m")
    for part, key, value in (
        ("vision_cfg", "timm_model_name", "hf-hub:evil/model"), ("vision_cfg", "timm_model_name", "local-dir:/tmp"),
        ("text_cfg", "hf_model_name", "evil/model"), ("text_cfg", "hf_tokenizer_name", "evil/model"),
    ):  # fmt: skip
        clip = model_copy("open_clip", world.folder / "c")
        saved = json.loads((clip / "open_clip_config.json").read_text())
        saved["model_cfg"][part][key] = value
        if key == "timm_model_name":
            saved["model_cfg"][part]["timm_proj"] = "linear"
        (clip / "open_clip_config.json").write_text(json.dumps(saved))
        (clip / "tokenizer.json").unlink(missing_ok=True)
        (clip / "tokenizer_config.json").unlink(missing_ok=True)
        refused(lambda: _load(clip), "hub's cache", "no name of timm's own", "fetch it once")  # noqa: B023
        shutil.rmtree(clip)
    return Outcome(said, 6, "refused")


def _resealed(checkpoint: Path) -> None:
    """Write the manifest anew, as an attacker would who may write there."""
    files = {
        path.name: {"bytes": path.stat().st_size, "sha256": hashlib.sha256(path.read_bytes()).hexdigest()}
        for path in checkpoint.iterdir()
        if path.name != "complete.json"
    }
    (checkpoint / "complete.json").write_text(json.dumps({"files": files}))


@case("security", "checkpoints: pickles beside the files and in place of every file, resealed")
def checkpoints(world: World) -> Outcome:
    from tests.training import runs

    canary, said = Canary(world.folder), ""
    good = world.folder / "good"
    given = runs.recipe(train={**runs.SETTINGS, "max_steps": 3, "save_every": 2})
    runs.run(good, given)
    shutil.rmtree(good / "model")
    shutil.rmtree(good / "checkpoints" / "step-00000003")
    names = sorted(path.name for path in (good / "checkpoints" / "step-00000002").iterdir())
    tries = 0
    for variables in ({}, UNSAFE):
        with environment(**variables):
            run = Path(shutil.copytree(good, world.folder / "run"))
            for name in PICKLES:
                (run / "checkpoints" / "step-00000002" / name).write_bytes(canary.bytes)
            runs.run(run, given, resume=True)
            assert canary.alive()
            shutil.rmtree(run)
            tries += len(PICKLES)
            for name in names:
                if name == "complete.json":
                    continue
                run = Path(shutil.copytree(good, world.folder / "run"))
                checkpoint = run / "checkpoints" / "step-00000002"
                (checkpoint / name).write_bytes(canary.bytes)
                _resealed(checkpoint)
                said = refused(lambda: runs.run(run, given, resume=True))  # noqa: B023 - called at once
                assert canary.alive(), name
                shutil.rmtree(run)
                tries += 1
    return Outcome(said, tries, "refused")


@case("security", "vectors: arrays of objects among the parts of encode, in the image cache, in the embedding cache")
def vectors(world: World) -> Outcome:
    import numpy as np

    from embedkit.evaluation.core.cache import EmbeddingCache
    from embedkit.models import encode_file
    from embedkit.training.loop import image_cache

    canary, texts = Canary(world.folder), world.folder / "t.txt"
    texts.write_text("a dog\na cat\n")
    model = _load(model_copy("own", world.folder / "m"))
    out, parts = world.folder / "v.npy", world.folder / ".v.npy.parts"
    real, kept = shutil.rmtree, []
    encode_file(model, texts, world.folder / "first.npy")
    import embedkit.models.encode.file_encoding as module

    def stop(*_: Any) -> None:
        kept.extend(parts.glob("*.npy"))
        raise KeyboardInterrupt

    join, module.join_blocks = module.join_blocks, stop
    try:
        encode_file(model, texts, out)
    except KeyboardInterrupt:
        canary.numpy(kept[0])
    finally:
        module.join_blocks = join
    said = refused(lambda: encode_file(model, texts, out), "no block of vectors")
    assert not out.exists()
    real(parts, ignore_errors=True)
    canary.numpy(world.folder / "vectors.npy")
    refused(lambda: image_cache._opened(world.folder / "vectors.npy", 1), "cannot be read")
    (world.folder / "cache").mkdir()
    cache = EmbeddingCache(world.folder / "cache")
    cache.put("model", None, [b"k" * 16], np.ones((1, 4)))
    for file in (world.folder / "cache").rglob("*.safetensors"):
        file.write_bytes(canary.bytes)
    fresh = EmbeddingCache(world.folder / "cache")
    refused(lambda: fresh.get("model", None, [b"k" * 16]), "damaged embedding cache")
    assert canary.alive()
    return Outcome(said, 3, "refused")
