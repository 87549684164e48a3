"""What branches of a method have in common: the views each reads, and the names of what the objective sees."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from embedkit.config.settings import check
from embedkit.errors import RecipeError, nearest


@dataclass(frozen=True)
class BranchViews:
    """A branch: views that go through a projector of their own, in training only.

    Attributes
    ----------
    views : list of str
        Views that it reads.

    Examples
    --------
    >>> BranchViews(views=["anchor", "positive"]).names("local")
    {'anchor': 'local-anchor', 'positive': 'local-positive'}
    """

    views: Sequence[str]

    def names(self, branch: str) -> dict[str, str]:
        """View -> name of the embedding that the objective sees."""
        return {view: f"{branch}-{view}" for view in self.views}


Branch = TypeVar("Branch", bound=BranchViews)


def read_branches(
    kind: type[Branch], config: Mapping[str, Mapping[str, Any]], views: Sequence[str]
) -> dict[str, Branch]:
    """The branches of ``method.projectors``, by name.

    Parameters
    ----------
    kind : type
        A dataclass on top of `BranchViews`, whose fields are the settings.
    config : mapping
        Branch -> settings.
    views : sequence of str
        All views that there are.

    Raises
    ------
    RecipeError
        A setting that is unknown or out of bounds, a view that there is not, none at all, or a name that no module can
        have.

    Examples
    --------
    >>> read_branches(BranchViews, {"local": {"views": ["anchor"]}}, ["anchor", "positive"])
    {'local': BranchViews(views=['anchor'])}
    """
    branches = {}
    for name, settings in config.items():
        where = f"method.projectors.{name}"
        if not name or "." in name or "/" in name:
            raise RecipeError(f"a projector called {name!r}", where=where, remedy="use a name without . and /")
        branches[name] = kind(**check(kind, dict(settings), where))
        for view in branches[name].views:
            if view not in views:
                raise RecipeError(f"there is no view {view!r}", where=f"{where}.views",
                                  remedy=nearest(view, list(views)))  # fmt: skip
        if not branches[name].views:
            raise RecipeError("it reads no view", where=f"{where}.views", remedy="name some, or leave it out")
    return branches
