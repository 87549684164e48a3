"""Starting is quick: the front door and the help import nothing heavy."""

from __future__ import annotations

import json
import pkgutil
import subprocess
import sys

import pytest

import embedkit

HEAVY = (
    "torch",
    "transformers",
    "datasets",
    "accelerate",
    "pandas",
    "pyarrow",
    "scipy",
    "numpy",
    "sentence_transformers",
)


def loaded_after(code: str) -> set[str]:
    """Which of `HEAVY` are imported by a fresh Python that runs `code`."""
    report = f"\nimport json, sys\nprint('LOADED', json.dumps([m for m in {HEAVY!r} if m in sys.modules]))"
    done = subprocess.run([sys.executable, "-c", code + report], capture_output=True, text=True, check=True)
    return set(json.loads(done.stdout.rsplit("LOADED", 1)[1]))


@pytest.mark.parametrize(
    "code",
    [
        "import embedkit",
        "from embedkit.cli.app import main\nassert main(['--help']) == 0",
        "from embedkit.cli.app import main\nassert main(['train', '--help']) == 0",
        "from embedkit.cli.app import main\nassert main(['recipes']) == 0",
        "from embedkit.cli.app import main\nassert main(['validate', 'quickstart', 'train.lrr=1']) == 2",
        "import embedkit.config.recipe_io, embedkit.errors, embedkit.registry, embedkit.data.builtin.sentences",
        *(
            f"import embedkit.{module.name}"
            for module in pkgutil.iter_modules(embedkit.__path__)
            if module.ispkg and module.name != "shipped"
        ),
    ],
)
def test_nothing_heavy_is_imported(code: str) -> None:
    assert loaded_after(code) == set()


def test_data_modules_import_no_torch() -> None:
    code = "import embedkit.data as d\n[getattr(d, name) for name in d.__all__]"
    assert not loaded_after(code) & {"torch", "transformers", "sentence_transformers"}


def test_wrong_rows_are_refused_before_torch_is_imported() -> None:
    words = ["train", "quickstart", "--output", "no-such-run", "data.train.0.path=no-such-file.tsv"]
    code = f"from embedkit.cli.app import main\nassert main({words!r}) == 2"
    assert not loaded_after(code) & {"torch", "transformers", "accelerate"}


def test_every_public_name_can_be_had() -> None:
    for name in embedkit.__all__:
        assert getattr(embedkit, name) is not None
    assert set(embedkit.__all__) <= set(dir(embedkit))
    with pytest.raises(AttributeError, match="attribute nothing"):
        embedkit.nothing  # noqa: B018
