"""What the pages hold beside docs/: files of the checkout, and every config key."""

import ast
import dataclasses
import inspect
import re
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

import jaxsim.config

ROOT = Path(__file__).resolve().parent.parent
# Pages that are read in the checkout, too; README.md is the first page.
_PAGES = ["CHANGELOG.md", "CONTRIBUTING.md", "SECURITY.md", "benchmarks/README.md"]
_RESULTS = [".md", ".json", ".png"]


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Adds the files that lie outside docs/."""
    results = (p for p in ROOT.glob("benchmarks/results/*") if p.suffix in _RESULTS)
    added = {path: ROOT / path for path in _PAGES}
    added |= {path.relative_to(ROOT).as_posix(): path for path in results}
    for path, source in {"index.md": ROOT / "README.md", **added}.items():
        files.append(File.generated(config, path, abs_src_path=str(source)))
    keys = "\n".join(_config_page())
    files.append(File.generated(config, "config.md", content=keys))
    return files


def on_page_markdown(
    markdown: str, page: Page, config: MkDocsConfig, files: Files
) -> str:
    """Links of the checkout, as they are here: docs/ is the root of the pages."""
    if page.file.src_uri == "config.md":
        return markdown
    here = "README.md" if page.file.src_uri == "index.md" else page.file.src_uri
    folder = ROOT / here
    if not folder.exists():
        folder = ROOT / "docs" / here
    return re.sub(
        r"(\]\()([^)#:\s]+)(?=[)#])",
        lambda found: found[1] + _link(folder.parent, found[2], page.file.src_uri),
        markdown,
    )


def _link(folder: Path, link: str, page: str) -> str:
    target = Path(folder, link).resolve().relative_to(ROOT).as_posix()
    target = target.removeprefix("docs/")
    target = {"README.md": "index.md", "LICENSE": "index.md"}.get(target, target)
    return "../" * page.count("/") + target


def _config_page() -> Iterator[str]:
    yield "# Config keys\n"
    yield (
        "Every key, as `--config.KEY=VALUE` on the command line and as `config.KEY` in a "
        "config file. A wrong key, type or value is an error that names it. Made from "
        "`jaxsim/config.py`.\n"
    )
    yield from _keys(jaxsim.config.Config, "")


def _keys(group: type, prefix: str) -> Iterator[str]:
    """The keys of a group, then the groups that it holds."""
    hints, comments = typing.get_type_hints(group), _comments(group)
    fields = dataclasses.fields(group)
    nested = {f.name: _group(hints[f.name]) for f in fields}
    yield f"## `config.{prefix[:-1]}`\n" if prefix else "## `config`\n"
    yield inspect.cleandoc(group.__doc__ or "") + "\n"
    yield "| key | type | default | must be | |\n| --- | --- | --- | --- | --- |"
    for each in fields:
        if dataclasses.is_dataclass(nested[each.name]) and not _is_dict(
            hints[each.name]
        ):
            continue
        bound = each.metadata.get("bound", ("", ""))[1]
        cells = [
            f"`{prefix}{each.name}`",
            _type(hints[each.name]),
            f"`{_default(each)!r}`",
            bound,
            comments.get(each.name, ""),
        ]
        yield "| " + " | ".join(c.replace("|", r"\|") for c in cells) + " |"
    yield ""
    done: set[type] = set()
    for name, inner in nested.items():
        if dataclasses.is_dataclass(inner) and inner not in done:
            done.add(inner)  # partitions, domains and base_text are alike
            is_dict = _is_dict(hints[name])
            yield from _keys(inner, f"{prefix}{name}.{'NAME.' * is_dict}")


def _comments(group: type) -> dict[str, str]:
    """Of each field the comment above it, and the one that ends its lines."""
    lines = inspect.getsource(group).splitlines()
    (tree,) = ast.parse(inspect.cleandoc("\n".join(lines))).body
    found = {}
    for node in tree.body:  # type: ignore[attr-defined]
        if isinstance(node, ast.AnnAssign):
            above = node.lineno - 1
            while lines[above - 1].lstrip().startswith("#"):
                above -= 1
            comments = lines[above : node.lineno - 1]
            _, hash_, after = lines[node.end_lineno - 1].rpartition("  # ")
            comments += [after] * bool(hash_)
            words = " ".join(line.strip(" #") for line in comments)
            found[node.target.id] = words
    return found


def _is_dict(hint: Any) -> bool:
    return typing.get_origin(hint) is dict


def _group(hint: Any) -> Any:
    return typing.get_args(hint)[1] if _is_dict(hint) else hint


def _type(hint: Any) -> str:
    if typing.get_origin(hint) is Literal:
        return " or ".join(f"`{value!r}`" for value in typing.get_args(hint))
    name = hint.__name__ if isinstance(hint, type) and not typing.get_args(hint) else ""
    return f"`{name or str(hint).replace('jaxsim.config.', '')}`"


def _default(each: dataclasses.Field) -> Any:
    if each.default_factory is not dataclasses.MISSING:
        return each.default_factory()
    return each.default
