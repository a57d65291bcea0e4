"""What the pages hold beside docs/: files of the checkout, and fields of dataclasses.

`<!-- fields: MODULE.CLASS -->` in a page becomes a table of the fields of that class,
from their types, defaults, bounds and comments; `<!-- keys -->` all of the config.
"""

import ast
import dataclasses
import inspect
import pydoc
import re
import textwrap
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

from jaxsim.config import Config
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parent.parent
# Pages that are read in the checkout, too.
_PAGES = ("CHANGELOG.md", "CONTRIBUTING.md", "SECURITY.md", "benchmarks/README.md")
_FIRST = "index.md"  # README.md


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Adds the files that lie outside docs/."""
    results = [p.relative_to(ROOT) for p in ROOT.glob("benchmarks/results/*.*")]
    for path in [*_PAGES, *(p.as_posix() for p in results)]:
        files.append(File.generated(config, path, abs_src_path=str(ROOT / path)))
    readme = str(ROOT / "README.md")
    files.append(File.generated(config, _FIRST, abs_src_path=readme))
    return files


def on_page_markdown(
    markdown: str, page: Page, config: MkDocsConfig, files: Files
) -> str:
    """Fills in tables, and turns links of the checkout into links of the pages."""
    markdown = re.sub(
        r"<!-- fields: (\S+) -->",
        lambda found: "\n".join(_table(_located(found[1]))),
        markdown,
    )
    markdown = markdown.replace("<!-- keys -->", "\n".join(_groups(Config, "")))
    folder, up = Path(page.file.abs_src_path).parent, "../" * page.url.count("/")
    return re.sub(
        r"(?<=\]\()([^)#:\s]+)(?=[)#])",
        lambda found: up + _place(folder / found[1]),
        markdown,
    )


def _place(target: Path) -> str:
    """Where a file of the checkout is among the pages."""
    place = target.resolve().relative_to(ROOT).as_posix()
    return _FIRST if place == "README.md" else place.removeprefix("docs/")


def _located(name: str) -> type:
    found = pydoc.locate(name)
    if not dataclasses.is_dataclass(found):
        raise ValueError(f"fields: {name} is no dataclass")
    return typing.cast(type, found)


def _groups(group: type, prefix: str) -> Iterator[str]:
    """The keys of a group of the config, then the groups that it holds."""
    yield f"## `config.{prefix}`\n".replace(".`", "`")
    yield inspect.cleandoc(group.__doc__ or "") + "\n"
    yield from _table(group, prefix)
    yield ""
    seen = set()
    for name, hint in typing.get_type_hints(group).items():
        if (inner := _nested(hint)) and inner not in seen:
            seen.add(inner)  # partitions, domains and base text have the same keys
            yield from _groups(inner, f"{prefix}{name}{'' if inner is hint else '.NAME'}.")


def _table(group: type, prefix: str | None = None) -> Iterator[str]:
    """A row for each field; with the prefix of keys, without those that are groups."""
    hints, comments = typing.get_type_hints(group), _comments(group)
    rows = []
    for each in dataclasses.fields(group):
        hint = hints[each.name]
        if prefix is not None and _nested(hint) is hint:
            continue
        bound = each.metadata.get("bound", ("", ""))[1]
        name, default = f"`{prefix or ''}{each.name}`", _default(each)
        rows.append([name, _type(hint), default, bound, comments.get(each.name, "")])
    heads = ["name", "type", "default", "must be", "what it is"]
    filled = [i for i in range(5) if i in (0, 1, 4) or any(row[i] for row in rows)]
    for row in [heads, ["---"] * 5, *rows]:
        yield "| " + " | ".join(row[i].replace("|", r"\|") for i in filled) + " |"


def _comments(group: type) -> dict[str, str]:
    """Of each field, also inherited ones, the comment above it and on its lines."""
    found: dict[str, str] = {}
    for each in reversed(group.__mro__):
        if not dataclasses.is_dataclass(each):
            continue
        source = textwrap.dedent(inspect.getsource(each))
        lines, (tree,) = source.splitlines(), ast.parse(source).body
        for node in typing.cast(ast.ClassDef, tree).body:
            if not isinstance(node, ast.AnnAssign):
                continue
            end = above = node.lineno - 1
            while lines[above - 1].lstrip().startswith("#"):
                above -= 1
            own = [line.partition("  # ")[2] for line in lines[end : node.end_lineno]]
            words = " ".join(line.strip(" #") for line in [*lines[above:end], *own])
            found[typing.cast(ast.Name, node.target).id] = words.strip()
    return found


def _nested(hint: Any) -> type | None:
    """The group of keys that a field is, or holds by name."""
    inner = typing.get_args(hint)[-1] if typing.get_origin(hint) is dict else hint
    return inner if dataclasses.is_dataclass(inner) else None


def _type(hint: Any) -> str:
    if typing.get_origin(hint) is Literal:
        return " or ".join(f"`{value!r}`" for value in typing.get_args(hint))
    args = typing.get_args(hint)
    text = str(hint) if args else getattr(hint, "__name__", str(hint))
    return f"`{re.sub(r'[a-z_]+[.]', '', text)}`"


def _default(each: dataclasses.Field) -> str:
    if each.default_factory is not dataclasses.MISSING:
        return f"`{each.default_factory()!r}`"
    no_default = each.default is dataclasses.MISSING
    return "" if no_default else f"`{each.default!r}`"
