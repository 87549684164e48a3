"""The style gate: the rules of the house that no other tool checks. Run: python tools/gate.py

It reads the source and imports none of it. A line that must break a rule says why in a comment ``# gate: REASON``.
"""

from __future__ import annotations

import ast
import graphlib
import re
import sys
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from vocabulary import participles, without_example

MAX_FILE_LINES = 500
MAX_METHOD_LINES = 150
MAX_BODY_LINES = 60
MIN_DOCUMENTED = 0.95
MAX_DUPLICATED = 0.03
BLOCK = 10
"""Equal lines in a row, comments and blank lines aside, that count as a duplicated block."""

LAYERS = (
    "system", "config", "data", "models", "formats", "factory", "objectives", "views", "methods", "retrieval",
    "evaluation", "training", "mining", "doctor", "cli",
)  # fmt: skip
"""The rooms of the package from left to right; none imports from a room to its right, but for types alone."""

MAX_MODULES = 12
CATALOGUES = ("methods", "cli")
"""Folders with one file an entry, which may hold any number."""

PACKAGE_FOLDERS = ("embedkit", "tools")
SIZED_FOLDERS = ("embedkit", "tools", "tests", "eval")


@dataclass(frozen=True)
class Finding:
    """A broken rule at a line."""

    path: Path
    line: int
    what: str

    def __str__(self) -> str:
        return f"{self.path}:{self.line}: {self.what}"


@dataclass
class Source:
    """A file; what is derived from its text is computed once, when first read."""

    path: Path
    text: str

    @cached_property
    def lines(self) -> list[str]:
        """Its lines, without ends."""
        return self.text.splitlines()

    @cached_property
    def tree(self) -> ast.Module:
        """The syntax tree."""
        return ast.parse(self.text)

    @cached_property
    def nodes(self) -> list[ast.AST]:
        """All nodes of the tree."""
        return list(ast.walk(self.tree))

    @cached_property
    def breaches(self) -> list[tuple[int, str]]:
        """Line and reason of everything that `check_banned` looks for, excuses aside."""
        return [(getattr(node, "lineno", 0), why) for node in self.nodes if (why := _banned(node)) is not None]

    @cached_property
    def imports(self) -> list[tuple[int, str, str]]:
        """Line, module ("" for a plain import) and name of every import, in functions too; those for types aside."""
        blocks = [node for node in self.nodes if isinstance(node, ast.If) and _dotted(node.test) == "TYPE_CHECKING"]
        exempt = {node for block in blocks for node in ast.walk(block)}
        return [
            (node.lineno, (node.module or "") if isinstance(node, ast.ImportFrom) else "", alias.name)
            for node in self.nodes
            if isinstance(node, ast.Import | ast.ImportFrom) and node not in exempt
            for alias in node.names
        ]


@dataclass
class Definition:
    """A class, function or method that can be reached by a public name."""

    source: Source
    name: str
    node: ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef
    owner: ast.ClassDef | None = None


def read(root: Path, folders: Iterable[str]) -> list[Source]:
    """All Python files below some folders of `root`, with paths relative to it."""
    sources = []
    for folder in folders:
        for path in sorted((root / folder).rglob("*.py")):
            sources.append(Source(path.relative_to(root), path.read_text(encoding="utf-8")))
    return sources


def check_size(source: Source) -> Iterator[Finding]:
    """Files of at most `MAX_FILE_LINES` lines, of a method `MAX_METHOD_LINES`."""
    is_method = source.path.parent.parts == ("embedkit", "methods") and "\n@methods.add(" in source.text
    most = MAX_METHOD_LINES if is_method else MAX_FILE_LINES
    if len(source.lines) > most:
        yield Finding(source.path, most + 1, f"{len(source.lines)} lines, at most {most}")


def check_bodies(source: Source) -> Iterator[Finding]:
    """Function bodies of at most `MAX_BODY_LINES` lines, docstring not counted."""
    for node in source.nodes:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            body = node.body[1:] if ast.get_docstring(node, clean=False) is not None else node.body
            if body and (length := (body[-1].end_lineno or 0) - body[0].lineno + 1) > MAX_BODY_LINES:
                yield Finding(
                    source.path, node.lineno, f"body of {node.name} has {length} lines, at most {MAX_BODY_LINES}"
                )


def check_head(source: Source) -> Iterator[Finding]:
    """A docstring for the module, and postponed annotations where it defines anything."""
    if ast.get_docstring(source.tree) is None:
        yield Finding(source.path, 1, "the module has no docstring")
    imports = [node for node in source.tree.body if isinstance(node, ast.ImportFrom) and node.module == "__future__"]
    if not imports and any(isinstance(node, ast.FunctionDef | ast.ClassDef) for node in source.tree.body):
        yield Finding(source.path, 1, "`from __future__ import annotations` is missing")


_UNFINISHED = re.compile(r"\b(TODO|FIXME|XXX|HACK)\b")


def check_words(source: Source) -> Iterator[Finding]:
    """No unfinished work left in comments."""
    for number, line in enumerate(source.lines, start=1):
        if _UNFINISHED.search(line.partition("#")[2]):
            yield Finding(source.path, number, "unfinished work; finish it or file an issue")


_BANNED_IMPORTS = {
    "pickle", "cPickle", "dill", "cloudpickle", "marshal", "shelve", "joblib", "jsonpickle",
    "torch.distributed.checkpoint",
}  # fmt: skip
_LOADERS = {"yaml.Loader", "yaml.CLoader", "yaml.FullLoader", "yaml.UnsafeLoader"}
_DOWNLOADS = ("snapshot_download", "hf_hub_download", "load_dataset")
_BANNED_CALLS = {
    "yaml.load": "use a safe loader",
    "yaml.unsafe_load": "use a safe loader",
    "yaml.full_load": "use a safe loader",
    "yaml.load_all": "use a safe loader",
    "faiss.read_index": "it trusts what it reads; build the index from stored vectors",
    "shutil.unpack_archive": "it follows paths out of the folder; check each member",
    "os.system": "use subprocess.run with a list",
    "os.popen": "use subprocess.run with a list",
    "os.getenv": "settings come from arguments and recipes",
    "eval": "it runs code",
    "exec": "it runs code",
}


def _dotted(node: ast.AST) -> str:
    if isinstance(node, ast.Attribute):
        return f"{_dotted(node.value)}.{node.attr}"
    return node.id if isinstance(node, ast.Name) else ""


def _is(keyword: ast.keyword, name: str, value: bool) -> bool:
    return keyword.arg == name and isinstance(keyword.value, ast.Constant) and keyword.value.value is value


def _banned_call(call: ast.Call) -> str | None:
    name = _dotted(call.func)
    if name == "torch.load" and not any(_is(k, "weights_only", True) for k in call.keywords):
        return "torch.load without weights_only=True can run code"
    if name.endswith((".extractall", ".extract")):
        return "extract and extractall follow paths out of the folder; check each member"
    names = {keyword.arg for keyword in call.keywords}
    if name.endswith(".from_pretrained") and not (
        "trust_remote_code" in names and any(_is(k, "local_files_only", True) for k in call.keywords)
    ):
        return "from_pretrained without trust_remote_code and local_files_only=True can ask, fetch and run code"
    if name.rpartition(".")[2] in _DOWNLOADS and "revision" not in names:
        return f"{name} without revision cannot be pinned"
    for keyword in call.keywords:
        for argument in ("shell", "allow_pickle", "trust_remote_code"):
            if _is(keyword, argument, True):
                return f"{argument}=True can run code"
    return f"{name}: {_BANNED_CALLS[name]}" if name in _BANNED_CALLS else None


def _banned(node: ast.AST) -> str | None:
    """Why a node may not stand in the package, or None."""
    if isinstance(node, ast.Call):
        return _banned_call(node)
    if isinstance(node, ast.Import | ast.ImportFrom):
        names = [node.module or ""] if isinstance(node, ast.ImportFrom) else [alias.name for alias in node.names]
        full = [".".join(n.split(".")[:depth]) for n in names for depth in (1, 3)]
        return next((f"{n}: reading it can run code" for n in full if n in _BANNED_IMPORTS), None)
    if isinstance(node, ast.Attribute) and _dotted(node) in _LOADERS:
        return f"{_dotted(node)}: use a safe loader"
    if isinstance(node, ast.Attribute) and _dotted(node) == "os.environ":
        return "os.environ: settings come from arguments and recipes"
    if isinstance(node, ast.Raise) and node.exc is not None:
        raised = node.exc.func if isinstance(node.exc, ast.Call) else node.exc
        return (
            "raise NotImplementedError: finish it or leave it out" if _dotted(raised) == "NotImplementedError" else None
        )
    if isinstance(node, ast.ExceptHandler):
        if node.type is None:
            return "bare except"
        silent = all(isinstance(statement, ast.Pass | ast.Continue) for statement in node.body)
        if silent and _dotted(node.type) in ("Exception", "BaseException"):
            return "a swallowed exception"
    return None


def imports(source: Source, modules: Mapping[str, Mapping[str, str]]) -> Iterator[tuple[int, str]]:
    """Line and name of every module of the package that a file imports, in functions too; imports for types aside.

    `modules` maps the name of each module to the names that it hands on from others (those of its stub).
    """
    for line, module, alias in source.imports:
        inner = f"{module}.{alias}" if module else alias
        name = inner if inner in modules else modules.get(module, {}).get(alias, module or inner)
        if name.split(".")[0] == "embedkit":
            yield line, name


def module_name(path: Path) -> str:
    """The dotted name of a file."""
    return ".".join(path.with_suffix("").parts).removesuffix(".__init__")


def stubs(root: Path, sources: Iterable[Source]) -> dict[str, dict[str, str]]:
    """Each module and the names that its stub hands on, with the module that each comes from."""
    facades: dict[str, dict[str, str]] = {}
    for source in sources:
        name, stub = module_name(source.path), (root / source.path).with_suffix(".pyi")
        facades[name] = {}
        for node in ast.parse(stub.read_text(encoding="utf-8")).body if stub.is_file() else []:
            if isinstance(node, ast.ImportFrom):
                home = f"{name}.{node.module}" if node.module else name
                facades[name] |= {alias.name: home if node.module else f"{home}.{alias.name}" for alias in node.names}
    return facades


def _room(module: str) -> str:
    parts = module.split(".")
    return parts[1] if parts[0] == "embedkit" and len(parts) > 1 and parts[1] in LAYERS else ""


def check_layers(source: Source, modules: Mapping[str, Mapping[str, str]]) -> Iterator[Finding]:
    """No import from a room further right, and no home of a registry there."""
    room = _room(module_name(source.path))
    further = {*LAYERS[LAYERS.index(room) + 1 :]} if room else set()
    for line, name in sorted(set(imports(source, modules))):
        if (other := _room(name)) in further:
            yield Finding(source.path, line, f"{room} imports from {other}, which is to its right")
    for node in source.nodes:
        if isinstance(node, ast.Call) and _dotted(node.func) == "Registry":
            homes = [argument.value for argument in node.args[1:] if isinstance(argument, ast.Constant)]
            for home in homes:
                if (other := _room(str(home))) in further:
                    yield Finding(source.path, node.lineno, f"{room} has a registry at home in {other}, to its right")


def circles(sources: list[Source], modules: Mapping[str, Mapping[str, str]]) -> Iterator[Finding]:
    """The first circle of modules that import each other, imports inside functions counted."""
    graph: dict[str, set[str]] = {}
    for source in sources:
        own = module_name(source.path)
        graph[own] = {name for _, name in imports(source, modules) if name in modules and name not in (own, "embedkit")}
    try:
        graphlib.TopologicalSorter(graph).prepare()
    except graphlib.CycleError as error:
        circle = error.args[1]
        yield Finding(Path(*circle[0].split(".")), 1, f"a circle of imports: {' <- '.join(circle)}")


def flat_folders(sources: list[Source]) -> Iterator[Finding]:
    """No folder of the package with more than `MAX_MODULES` modules, catalogues aside."""
    for folder, size in folder_sizes(sources).items():
        if size > MAX_MODULES:
            yield Finding(folder, 1, f"{size} modules in one folder, at most {MAX_MODULES}")


def folder_sizes(sources: list[Source]) -> Counter[Path]:
    """Modules of each folder of the package, catalogues aside."""
    folders = (source.path.parent for source in sources if source.path.name != "__init__.py")
    return Counter(f for f in folders if f.parts[0] == "embedkit" and f.name not in CATALOGUES)


def check_banned(source: Source) -> Iterator[Finding]:
    """No call that can run foreign code, no setting from the environment, no swallowed exception."""
    excused = excuses(source)
    for line, why in source.breaches:
        if line not in excused:
            yield Finding(source.path, line, why)


def excuses(source: Source) -> set[int]:
    """Lines that break a rule of `check_banned` and say why."""
    return {line for line, _ in source.breaches if re.search(r"#\s*gate: \S", source.lines[line - 1])}


def definitions(source: Source) -> Iterator[Definition]:
    """Public classes, functions and methods of a module."""
    if any(part.startswith("_") and part != "__init__.py" for part in source.path.parts):
        return
    kinds = (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    for node in source.tree.body:
        if not isinstance(node, kinds) or node.name.startswith("_"):
            continue
        yield Definition(source, node.name, node)
        if isinstance(node, ast.ClassDef):
            for inner in node.body:
                if isinstance(inner, kinds) and not inner.name.startswith("_"):
                    yield Definition(source, f"{node.name}.{inner.name}", inner, node)


def _documented_bases(public: list[Definition]) -> Callable[[Definition], bool]:
    """A test whether a method overrides one that a base class of the project documents."""
    bases: dict[str, set[str]] = defaultdict(set)
    documented: dict[str, set[str]] = defaultdict(set)
    for definition in public:
        if isinstance(definition.node, ast.ClassDef):
            names = [base.value if isinstance(base, ast.Subscript) else base for base in definition.node.bases]
            bases[definition.node.name] |= {_dotted(base).rsplit(".", 1)[-1] for base in names}
        elif definition.owner is not None and ast.get_docstring(definition.node) is not None:
            documented[definition.owner.name].add(definition.node.name)

    def overrides(definition: Definition) -> bool:
        if definition.owner is None:
            return False
        above, classes = list(bases[definition.owner.name]), set[str]()
        while above:
            name = above.pop()
            if definition.node.name in documented.get(name, ()):
                return True
            if name not in classes:
                classes.add(name)
                above += bases.get(name, ())
        return False

    return overrides


def undocumented(public: list[Definition]) -> list[Finding]:
    """Public names without a docstring of their own or of the method they override."""
    overrides = _documented_bases(public)
    return [
        Finding(one.source.path, one.node.lineno, f"{one.name} has no docstring")
        for one in public
        if ast.get_docstring(one.node) is None and not overrides(one) and not _is_setter(one)
    ]


def check_vocabulary(source: Source) -> Iterator[Finding]:
    """No participle as a name; an example for every public class and function of the package."""
    for line, name in participles(source.nodes):
        yield Finding(source.path, line, f"{name}: a participle as a name; use a noun")
    for line, name in without_example(source.tree) if source.path.parts[0] == "embedkit" else ():
        yield Finding(source.path, line, f"{name} has no example")


def _is_setter(definition: Definition) -> bool:
    return any(_dotted(mark).endswith(".setter") for mark in getattr(definition.node, "decorator_list", ()))


def untyped(public: list[Definition]) -> Iterator[Finding]:
    """Parameters and results of public functions that have no type."""
    for one in public:
        if isinstance(one.node, ast.ClassDef):
            continue
        signature = one.node.args
        positional = [*signature.posonlyargs, *signature.args]
        static = any(_dotted(mark) == "staticmethod" for mark in one.node.decorator_list)
        parameters = positional[1:] if one.owner is not None and not static else positional
        parameters = [*parameters, *signature.kwonlyargs, *filter(None, [signature.vararg, signature.kwarg])]
        missing = [argument.arg for argument in parameters if argument.annotation is None]
        if one.node.returns is None:
            missing.append("result")
        if missing:
            yield Finding(one.source.path, one.node.lineno, f"{one.name}: no type for {', '.join(missing)}")


def _code_lines(source: Source) -> list[tuple[int, str]]:
    """Numbered lines that hold code: no comments, docstrings, imports or lone brackets."""
    docstrings: set[int] = set()
    for node in source.nodes:
        text = isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)
        if text or isinstance(node, ast.Import | ast.ImportFrom):
            docstrings.update(range(node.lineno, (node.end_lineno or node.lineno) + 1))  # type: ignore[attr-defined]
    code_lines = []
    for number, line in enumerate(source.lines, start=1):
        code = re.sub(r"\s*#.*$", "", line).strip()
        if number not in docstrings and re.search(r"\w", code):
            code_lines.append((number, code))
    return code_lines


def duplicates(sources: list[Source]) -> tuple[float, list[Finding]]:
    """Share of code lines that stand in a block of `BLOCK` equal lines elsewhere too, and where those blocks are."""
    places: dict[tuple[str, ...], list[tuple[int, int]]] = defaultdict(list)
    code = [_code_lines(source) for source in sources]
    for which, lines in enumerate(code):
        for start in range(len(lines) - BLOCK + 1):
            places[tuple(text for _, text in lines[start : start + BLOCK])].append((which, start))
    twice: set[tuple[int, int]] = set()
    findings = []
    for group in places.values():
        if len(group) < 2:
            continue
        if not any((which, start) in twice for which, start in group):
            first, second = group[0], group[1]
            there = sources[second[0]].path, code[second[0]][second[1]][0]
            what = f"{BLOCK} or more lines stand at {there[0]}:{there[1]} too"
            findings.append(Finding(sources[first[0]].path, code[first[0]][first[1]][0], what))
        twice.update((which, start + offset) for which, start in group for offset in range(BLOCK))
    return len(twice) / max(1, sum(len(lines) for lines in code)), findings


def duplicated_recipes(root: Path, block: int = 6) -> tuple[float, list[Finding]]:
    """Share of recipe lines, comments aside, in runs of `block` that another file has too; findings above the limit."""
    paths = sorted((root / "recipes").rglob("*.yaml"))
    texts = [list(enumerate(path.read_text(encoding="utf-8").splitlines(), start=1)) for path in paths]
    lines = [[(n, line.rstrip()) for n, line in text if line.split("#")[0].strip()] for text in texts]
    places: dict[tuple[str, ...], list[tuple[int, int]]] = defaultdict(list)
    for which, numbered in enumerate(lines):
        for start in range(len(numbered) - block + 1):
            places[tuple(line for _, line in numbered[start : start + block])].append((which, start))
    shared = [where for where in places.values() if len({which for which, _ in where}) > 1]
    twice = {(which, start + offset) for where in shared for which, start in where for offset in range(block)}
    share = len(twice) / max(1, sum(len(numbered) for numbered in lines))
    if share <= MAX_DUPLICATED:
        return share, []
    findings = []
    for (which, start), *_, (other, _) in shared:
        what = f"{block} lines stand in {paths[other].relative_to(root)} too; extend one recipe by the other"
        findings.append(Finding(paths[which].relative_to(root), lines[which][start][0], what))
    return share, findings


def run(root: Path) -> tuple[list[Finding], dict[str, str]]:
    """All findings in a checkout, and the figures of the gate."""
    package, sized = read(root, PACKAGE_FOLDERS), read(root, SIZED_FOLDERS)
    findings = [finding for source in sized for check in (check_size, check_words) for finding in check(source)]
    checks = (check_bodies, check_head, check_banned, check_vocabulary)
    findings += [finding for source in package for check in checks for finding in check(source)]
    modules = stubs(root, package)
    findings += [finding for source in package for finding in check_layers(source, modules)]
    findings += [*circles(package, modules), *flat_folders(package)]
    public = [definition for source in package for definition in definitions(source)]
    findings += untyped(public)
    bare = undocumented(public)
    documented = 1 - len(bare) / max(1, len(public))
    if documented < MIN_DOCUMENTED:
        findings += bare
    share, blocks = duplicates(package)
    if share > MAX_DUPLICATED:
        findings += blocks
    repeated, blocks = duplicated_recipes(root)
    findings += blocks
    figures = {
        "files": f"{len(package)}, the longest {max(len(source.lines) for source in package)} lines",
        "public names": f"{len(public)}, documented {documented:.1%}",
        "duplicated code lines": f"{share:.1%}",
        "duplicated recipe lines": f"{repeated:.1%}",
        "largest folder": f"{max(folder_sizes(package).values())} modules",
        "lines excused": str(sum(len(excuses(source)) for source in package)),
    }
    return findings, figures


def main() -> int:
    """Print findings and figures; 1 when a rule is broken, else 0."""
    findings, figures = run(Path(__file__).resolve().parent.parent)
    for finding in findings:
        print(finding)
    print("; ".join(f"{name}: {value}" for name, value in figures.items()))
    print(f"gate: {len(findings)} findings" if findings else "gate: passed")
    return 1 if findings else 0


if __name__ == "__main__":
    sys.exit(main())
