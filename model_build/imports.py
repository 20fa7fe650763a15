"""Which files of the user's own a recipe is made of: its module and all that it imports, found without running them."""

from __future__ import annotations

import ast
import importlib.util
from collections.abc import Iterator, Sequence
from pathlib import Path

from model_build.places import is_users


def own_modules(recipe: str, workspace: Path) -> list[Path]:
    """Return the files of `recipe` (`package.module.Class`) and of what they import, without installed packages.

    Imports inside functions count; what is imported by a name that is only known as the program runs does not.
    """
    found: dict[Path, None] = {}
    waiting = list(_files(recipe.rpartition(".")[0]))
    while waiting:
        name, path = waiting.pop()
        if path in found or not is_users(path, workspace):
            continue
        found[path] = None
        waiting += [one for imported in _imported(name, path) for one in _files(imported)]
    return sorted(found)


def _imported(module: str, path: Path) -> Iterator[str]:
    """Names that may be modules, `package.name` of each `from package import name` too."""
    try:
        tree = ast.parse(path.read_bytes())
    except SyntaxError:
        return  # whoever imports it is told
    package = module if path.name == "__init__.py" else module.rpartition(".")[0]
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (one.name for one in node.names)
        elif isinstance(node, ast.ImportFrom):
            parents = package.split(".")
            above = ".".join(parents[: len(parents) - node.level + 1]) if node.level else ""
            base = ".".join(part for part in (above, node.module) if part)
            yield base
            yield from (f"{base}.{one.name}" for one in node.names)


def _files(module: str) -> Iterator[tuple[str, Path]]:
    """The files that `import module` runs: of its packages, and its own; those of a name that is no module are none."""
    top, *rest = module.split(".")
    try:
        spec = importlib.util.find_spec(top) if top else None
    except (ImportError, ValueError):  # ValueError: a module that was put into sys.modules by hand
        spec = None
    if spec is None:
        return
    if spec.origin and Path(spec.origin).suffix == ".py":
        yield top, Path(spec.origin).resolve()
    folders: Sequence[Path] = [Path(one) for one in spec.submodule_search_locations or ()]
    name = top
    for part in rest:
        name = f"{name}.{part}"
        packages = [folder / part for folder in folders]
        for path in (*(one / "__init__.py" for one in packages), *(one.with_name(f"{part}.py") for one in packages)):
            if path.is_file():
                yield name, path.resolve()
                break
        folders = packages
