"""Examinations of a model, a run, a recipe or a data file: findings, each with its evidence and a remedy.

A finding is a fact that was measured, not a guess; what is not measured is not mentioned.
"""

from __future__ import annotations

from pathlib import Path

from embedkit.doctor.data import examine_data
from embedkit.doctor.finding import Examination, Finding
from embedkit.doctor.model import examine_model
from embedkit.doctor.recipe import examine_recipe
from embedkit.doctor.run import examine_run, examine_stages
from embedkit.formats.detect import stage_folders

__all__ = ["Examination", "Finding", "examine", "examine_data", "examine_model", "examine_recipe", "examine_run"]


def examine(subject: str | Path, *, trust_remote_code: bool = False, allow_pickle: bool = False) -> Examination:
    """Facts and findings of a model (folder or hub id), a run, a recipe (name or YAML file), or a data file or folder.

    Raises
    ------
    UserError
        The subject cannot be read at all; the message is that of the part that reads it.

    Examples
    --------
    >>> text = "question,answer\\nHow do I pay?,By card or in cash at the desk.\\nWhere are you?,\\n"
    >>> _ = Path("faq.csv").write_text(text)
    >>> examination = examine("faq.csv")
    >>> examination.kind, [finding.what for finding in examination.findings]
    ('data', ["column 'answer' has empty texts"])
    """
    from embedkit.config.resources import recipe_names

    path, subject = Path(subject), str(subject)
    if path.suffix in (".yaml", ".yml") or (subject in recipe_names() and not path.exists()):
        from embedkit.config.recipe_io import load_recipe

        return Examination("recipe", subject, *examine_recipe(load_recipe(subject)))
    if (path / "log.jsonl").is_file():
        return Examination("run", subject, *examine_run(path))
    if stage_folders(path):
        return Examination("run", subject, *examine_stages(path))
    if subject.startswith("builtin:") or path.is_file() or (path.is_dir() and not _has_model(path)):
        return Examination("data", subject, *examine_data(subject))
    from embedkit.formats import load

    model = load(subject, trust_remote_code=trust_remote_code, allow_pickle=allow_pickle)
    facts, findings = examine_model(model, path if path.is_dir() else None)
    return Examination("model", subject, facts, [*_notes(path, trust_remote_code, allow_pickle), *findings])


def _notes(path: Path, trust_remote_code: bool, allow_pickle: bool) -> list[Finding]:
    """What reading the folder has to say: keys that nobody used, settings that were filled in."""
    from embedkit.formats.detect import inspect, locate

    if not path.is_dir():
        return []
    plan = inspect(locate(path), trust_remote_code=trust_remote_code, allow_pickle=allow_pickle)
    remedy = "set it in the folder, or compare with the library that wrote it, if this is not meant"
    return [Finding("the folder is read so", note, remedy) for note in plan.notes]


def _has_model(folder: Path) -> bool:
    """Whether a folder stands for a model, and not for data.

    Raises
    ------
    ModelError
        It holds models, one level deeper or more, and no data beside them.
    """
    from embedkit.data.sources.formats.samples import visible_files
    from embedkit.data.sources.registry import format_of
    from embedkit.formats.detect import locate
    from embedkit.formats.registry import is_model, models_below, not_itself

    if is_model(locate(folder)):
        return True
    below = models_below(folder)
    if below:
        runs = [model.parent for model in below if (model.parent / "log.jsonl").is_file()]
        files = [folder / name for name in visible_files(folder) if format_of(name) is not None]
        if not any(all(owner not in file.parents for owner in (*below, *runs)) for file in files):
            raise not_itself(folder, below)
    return False
