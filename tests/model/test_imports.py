"""Each library has one home, and imports run from later folders to earlier."""

import ast
from collections.abc import Iterator
from pathlib import Path

HOMES = {
    "flax": {"model"},
    "optax": {"train"},
    "orbax": {"checkpoints"},
    "etils": {"checkpoints", "__init__"},
    "tensorflow_datasets": {"corpus"},
    "ml_collections": {"config", "cli", "notebook"},
    "absl": {"config", "cli"},
    "tensorflow": set(),
}
ORDER = (
    "corpus",
    "model",
    "train",
    "pool",
    "scoring",
    "search",
    "validation",
    "report",
    "plan",
)
# No other file may import these; they may import anything.
ENDS = {
    "base",
    "export",
    "workdir",
    "commands",
    "notebook",
    "results",
    "cli",
    "doctor",
    "__main__",
    "__init__",
}


def _modules(root: Path) -> Iterator[tuple[str, str, ast.Module]]:
    package = root / "jaxsim"
    for path in sorted(package.rglob("*.py")):
        relative = path.relative_to(package)
        part = relative.parts[0].removesuffix(".py")
        yield part, str(relative), ast.parse(path.read_text())


def _imported(tree: ast.Module) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, "imports are absolute"
            # `from jaxsim import corpus` imports jaxsim.corpus.
            if node.module == "jaxsim":
                yield from (f"jaxsim.{alias.name}" for alias in node.names)
            else:
                yield node.module


def test_each_library_has_one_home(root):
    users: dict[str, set[str]] = {library: set() for library in HOMES}
    for part, _, tree in _modules(root):
        for name in _imported(tree):
            if (library := name.partition(".")[0]) in users:
                users[library].add(part)
    assert {k: v - HOMES[k] for k, v in users.items() if v - HOMES[k]} == {}
    assert users["flax"] and users["optax"] and users["orbax"]


def test_imports_run_from_later_folders_to_earlier(root):
    # Top-level files import only each other.
    base = {path.stem for path in (root / "jaxsim").glob("*.py")} - ENDS
    wrong = []
    for part, file, tree in _modules(root):
        if part in ENDS:
            continue
        earlier = () if part in base else ORDER[: ORDER.index(part) + 1]
        wrong += [
            f"{file}: {name}"
            for name in _imported(tree)
            if name.startswith("jaxsim.")
            and name.split(".")[1] not in {*base, *earlier, "__version__"}
        ]
    assert wrong == []
