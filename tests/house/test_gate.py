"""The gate passes on this checkout, and each of its rules catches what it is for."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest


@pytest.fixture(scope="module")
def gate(root: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location("gate", root / "tools" / "gate.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["gate"] = module
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(root / "tools"))
        spec.loader.exec_module(module)
    return module


def source(gate: ModuleType, text: str, path: str = "embedkit/some.py") -> object:
    return gate.Source(Path(path), text)


def test_this_checkout_passes(gate: ModuleType, root: Path) -> None:
    findings, figures = gate.run(root)
    assert [str(finding) for finding in findings] == []
    assert float(figures["public names"].split("documented ")[1].rstrip("%")) >= 95


MODULES = {
    "embedkit": {"load": "embedkit.formats.loading"},
    "embedkit.formats": {"load": "embedkit.formats.loading"},
    "embedkit.formats.loading": {},
    "embedkit.training": {"train": "embedkit.training.loop.loop"},
    "embedkit.training.loop.loop": {},
}


def test_no_room_imports_from_its_right(gate: ModuleType) -> None:
    def findings(text: str, path: str = "embedkit/objectives/some.py") -> list[str]:
        return [finding.what for finding in gate.check_layers(source(gate, text, path), MODULES)]

    wrong = "objectives imports from training, which is to its right"
    assert findings("from embedkit.training.loop.loop import Run") == [wrong]
    assert findings("import embedkit.training.loop.loop") == [wrong]
    assert findings("from embedkit import training") == [wrong]
    assert findings("def f():\n    from embedkit.training import train") == [wrong]
    assert findings("from embedkit.training import train  # gate: no reason helps") == [wrong]
    assert findings("from embedkit.formats import load\nfrom embedkit.errors import UserError\nimport training") == []
    assert findings("if TYPE_CHECKING:\n    from embedkit.training.loop.loop import Run") == []
    assert findings("from embedkit.objectives import build") == []
    assert findings("from embedkit.cli.app import main", "embedkit/api.py") == []  # the front door is in no room
    assert findings("from embedkit.cli.app import main", "tools/some.py") == []
    models = "embedkit/models/base.py"
    assert findings("from embedkit import load", models) == ["models imports from formats, which is to its right"]
    assert findings('x = Registry("format", "embedkit.formats")', models) == [
        "models has a registry at home in formats, to its right"
    ]


def test_circles_are_found_through_functions_and_stubs(gate: ModuleType) -> None:
    def circles(**texts: str) -> list[str]:
        sources = [source(gate, text, f"embedkit/{name}.py") for name, text in texts.items()]
        modules = {gate.module_name(one.path): {} for one in sources} | {"embedkit.facade": {"f": "embedkit.one"}}
        return [finding.what for finding in gate.circles(sources, modules)]

    assert circles(one="from embedkit.two import g", two="import json") == []
    assert circles(one="def f():\n    from embedkit.two import g", two="from embedkit import one")
    assert circles(one="from embedkit.two import g", two="from embedkit.facade import f")
    assert circles(one="from embedkit.two import g", two="if TYPE_CHECKING:\n    from embedkit.one import f") == []


def test_flat_folders(gate: ModuleType) -> None:
    def folders(count: int, folder: str) -> list[object]:
        return list(gate.flat_folders([source(gate, "", f"embedkit/{folder}/m{n}.py") for n in range(count)]))

    assert folders(12, "data") == [] and folders(30, "methods") == []
    assert len(folders(13, "data")) == 1


@pytest.mark.parametrize(
    ("line", "word"),
    [
        ("torch.load(path)", "weights_only"),
        ("torch.load(path, weights_only=False)", "weights_only"),
        ("yaml.load(text)", "safe loader"),
        ("import pickle", "pickle"),
        ("import joblib", "joblib"),
        ("from torch.distributed.checkpoint import load", "torch.distributed.checkpoint"),
        ("class L(yaml.FullLoader):\n    pass", "safe loader"),
        ("faiss.read_index(path)", "stored vectors"),
        ("tar.extract(member)", "out of the folder"),
        ("AutoModel.from_pretrained(path)", "trust_remote_code"),
        ("AutoModel.from_pretrained(path, local_files_only=True)", "trust_remote_code"),
        ("AutoModel.from_pretrained(path, trust_remote_code=False)", "local_files_only"),
        ("datasets.load_dataset(path)", "revision"),
        ("snapshot_download(name)", "revision"),
        ("from pickle import loads", "pickle"),
        ("subprocess.run('ls', shell=True)", "shell=True"),
        ("archive.extractall(path)", "extractall"),
        ("x = os.environ['HOME']", "os.environ"),
        ("x = os.environ.get('HOME')", "os.environ"),
        ("x = os.getenv('HOME')", "os.getenv"),
        ("np.load(path, allow_pickle=True)", "allow_pickle"),
        ("AutoModel.from_pretrained(path, trust_remote_code=True)", "trust_remote_code"),
        ("eval('1')", "eval"),
        ("def f():\n    raise NotImplementedError", "NotImplementedError"),
        ("try:\n    f()\nexcept Exception:\n    pass", "swallowed"),
        ("try:\n    f()\nexcept:\n    g()", "bare except"),
    ],
)
def test_banned_lines_are_found(gate: ModuleType, line: str, word: str) -> None:
    (finding,) = list(gate.check_banned(source(gate, line)))
    assert word in finding.what


@pytest.mark.parametrize(
    "line",
    [
        "torch.load(path, weights_only=True)",
        "yaml.safe_load(text)",
        "subprocess.run(['ls'])",
        "x = os.environ['HOME']  # gate: tests need it",
        "AutoModel.from_pretrained(path, local_files_only=True, trust_remote_code=trust_remote_code)",
        "snapshot_download(name, revision=revision)",
        "import torch.distributed",
        "try:\n    f()\nexcept OSError:\n    pass",
        "model.eval()",
    ],
)
def test_allowed_lines_are_not(gate: ModuleType, line: str) -> None:
    assert list(gate.check_banned(source(gate, line))) == []


def test_long_files_and_bodies(gate: ModuleType) -> None:
    assert not list(gate.check_size(source(gate, "x = 1\n" * 500)))
    assert list(gate.check_size(source(gate, "x = 1\n" * 501)))
    page = "x = 1\n" * 147 + "@methods.add('x')\nclass X:\n    y = 1\n"
    assert not list(gate.check_size(source(gate, page, "embedkit/methods/x.py")))
    assert list(gate.check_size(source(gate, page + "\n", "embedkit/methods/x.py")))
    assert not list(gate.check_size(source(gate, page + "\n", "embedkit/methods/common/x.py")))
    body = '    """Doc\n\n    string."""\n' + "    x = 1\n" * 60
    assert not list(gate.check_bodies(source(gate, "def f():\n" + body)))
    assert list(gate.check_bodies(source(gate, "def f():\n" + body + "    x = 1\n")))


def test_undocumented_and_untyped_names(gate: ModuleType) -> None:
    base = (
        "class Base:\n    'Doc.'\n\n    def run(self, x: int) -> int:\n        'Doc.'\n\n    def _hidden(self): ...\n"
    )
    child = "class Child(Base):\n    'Doc.'\n    def run(self, x: int) -> int: ...\n    def go(self, y) -> int: ...\n"
    text = base + child + "def free(a, *, b: int): ...\n"
    found = list(gate.definitions(source(gate, text)))
    assert [finding.what for finding in gate.undocumented(found)] == [
        "Child.go has no docstring",
        "free has no docstring",
    ]
    assert [finding.what for finding in gate.untyped(found)] == [
        "Child.go: no type for y",
        "free: no type for a, result",
    ]


def test_private_modules_are_left_alone(gate: ModuleType) -> None:
    assert not list(gate.definitions(source(gate, "def f(): ...", "embedkit/_private.py")))


def test_unfinished_work_and_missing_heads(gate: ModuleType) -> None:
    assert list(gate.check_words(source(gate, "x = 1  # TO" + "DO: finish")))
    assert not list(gate.check_words(source(gate, "x = 'todo list'  # a list")))
    assert [f.what for f in gate.check_head(source(gate, "def f(): ..."))] == [
        "the module has no docstring",
        "`from __future__ import annotations` is missing",
    ]


def test_duplicated_blocks(gate: ModuleType) -> None:
    block = "".join(f"    y{number} = x + {number}\n" for number in range(gate.BLOCK))
    one = source(gate, f"def f(x):\n{block}", "embedkit/one.py")
    two = source(gate, f"def g(x):\n    # a comment between\n{block}    return x\n", "embedkit/two.py")
    share, findings = gate.duplicates([one, two])
    assert share == pytest.approx(2 * gate.BLOCK / (2 * gate.BLOCK + 3))
    assert len(findings) == 1 and "embedkit/two.py" in findings[0].what
    assert gate.duplicates([one]) == (0.0, [])


def test_duplicated_recipe_lines(gate: ModuleType, tmp_path: Path) -> None:
    folder = tmp_path / "recipes" / "base"
    folder.mkdir(parents=True)
    six = "".join(f"key_{number}: {number}\n" for number in range(6))
    (folder.parent / "one.yaml").write_text(f"# one\nname: one\n{six}")
    (folder.parent / "two.yaml").write_text(six.replace("key_3: 3", "key_3: 4"))
    assert gate.duplicated_recipes(tmp_path) == (0.0, [])
    (folder / "three.yaml").write_text(f"name: three\n\n# a comment between\n{six}# the end\n")
    share, findings = gate.duplicated_recipes(tmp_path)
    assert share == 12 / 20
    assert [str(finding) for finding in findings] == [
        "recipes/base/three.yaml:4: 6 lines stand in recipes/one.yaml too; extend one recipe by the other"
    ]
    (folder / "three.yaml").write_text(six * 2)  # twice in one file: no other recipe to extend
    (folder.parent / "one.yaml").unlink()
    assert gate.duplicated_recipes(tmp_path) == (0.0, [])


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("def _f():\n    kept = 1", "kept: a participle"),
        ("def _f(found):\n    pass", "found: a participle"),
        ("class _C:\n    def __init__(self):\n        self._known = 1", "_known: a participle"),
        ("class _C:\n    told: int = 1", "told: a participle"),
        ('def f(x):\n    """Twice x."""', "f has no example"),
        ('class C:\n    def f(self):\n        """Its name."""', "C has no example"),
    ],
)
def test_words(gate: ModuleType, text: str, what: str) -> None:
    (finding,) = gate.check_vocabulary(source(gate, text))
    assert finding.what.startswith(what)


@pytest.mark.parametrize(
    "text",
    [
        "def _f():\n    rows = 1\n    return rows.kept",
        "def _f(left, split):\n    run = left.found()",
        'def f():\n    """One.\n\n    >>> f()\n    1\n    """',
        'class C:\n    def f(self):\n        """One.\n\n        >>> C().f()\n        1\n        """',
    ],
)
def test_words_that_are_right(gate: ModuleType, text: str) -> None:
    assert not list(gate.check_vocabulary(source(gate, text)))
