"""What the pages hold beside docs/: files of the checkout, and fields of dataclasses.

`<!-- fields: MODULE.CLASS -->` in a page becomes a table of the fields of that class,
from their types, defaults, bounds and comments; `<!-- keys -->` all of the config;
`<!-- help -->` what all commands say of themselves.
"""

import ast
import contextlib
import dataclasses
import inspect
import io
import pydoc
import re
import textwrap
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

from jaxsim.cli import COMMANDS, main
from jaxsim.config import Config

ROOT = Path(__file__).resolve().parent.parent
_OUTSIDE = (
    *("CHANGELOG.md", "CONTRIBUTING.md", "SECURITY.md", "CITATION.cff"),
    *("benchmarks/README.md", "benchmarks/results/*.*"),
)
_FIRST = "index.md"  # README.md


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Adds the files that lie outside docs/."""
    found = {path for pattern in _OUTSIDE for path in ROOT.glob(pattern)}
    for path in sorted({*found, ROOT / "README.md"}):
        file = File.generated(config, _place(path), abs_src_path=str(path))
        files.append(file)
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
    if "<!-- help -->" in markdown:
        markdown = markdown.replace("<!-- help -->", "\n".join(map(_help, COMMANDS)))
    folder, up = Path(page.file.abs_src_path).parent, "../" * page.url.count("/")
    return re.sub(
        r"(?<=\]\()([^)#:\s]+)(?=[)#])",
        lambda found: up + _place(folder / found[1]),
        markdown,
    )


def _help(command: str) -> str:
    """What `jaxsim COMMAND --help` prints."""
    with contextlib.redirect_stdout(io.StringIO()) as said:
        main([command, "--help"])
    return f"### `{command}`\n\n{textwrap.indent(said.getvalue(), '    ')}"


def _place(target: Path) -> str:
    """Where a file of the checkout is among the pages."""
    place = target.resolve().relative_to(ROOT).as_posix()
    return _FIRST if place == "README.md" else place.removeprefix("docs/")


def _located(name: str) -> type:
    found = pydoc.locate(name)
    if not isinstance(found, type):
        raise ValueError(f"fields: there is no class {name}")
    return found


def _groups(group: type, prefix: str) -> Iterator[str]:
    """The keys of a group of the config, then the groups that it holds."""
    yield f"## `config.{prefix}`\n".replace(".`", "`")
    if not (group.__doc__ or "").startswith(group.__name__):  # which a dataclass makes
        yield inspect.cleandoc(group.__doc__ or "") + "\n"
    yield from _table(group, prefix)
    yield ""
    seen = set()
    for name, hint in typing.get_type_hints(group).items():
        if (inner := _nested(hint)) and inner not in seen:
            seen.add(inner)  # partitions, domains and base text have the same keys
            several = "" if inner is hint else ".NAME"
            yield from _groups(inner, f"{prefix}{name}{several}.")


def _table(group: type, prefix: str | None = None) -> Iterator[str]:
    """A row for each field; with the prefix of keys, without those that are groups."""
    hints, words = typing.get_type_hints(group, include_extras=True), _words(group)
    is_data = dataclasses.is_dataclass(group)
    fields = {each.name: each for each in dataclasses.fields(group)} if is_data else {}
    rows = []
    for name, hint in hints.items():
        if name not in words or (prefix is not None and _nested(hint) is hint):
            continue
        bound, default = "", ""
        if prefix is not None:
            bound = fields[name].metadata.get("bound", ("", ""))[1]
            default = _default(fields[name])
        key = f"`{prefix or ''}{name}`"
        rows.append([key, _type(hint), default, bound, words[name]])
    heads = ["name", "type", "default", "must be", "what it is"]
    filled = [i for i in range(5) if i in (0, 1, 4) or any(row[i] for row in rows)]
    for row in [heads, ["---"] * 5, *rows]:
        yield "| " + " | ".join(row[i].replace("|", r"\|") for i in filled) + " |"


def _words(group: type) -> dict[str, str]:
    """What is said of each field, also inherited ones.

    In the docstring, in the comment above it, or in one behind it.
    """
    found: dict[str, str] = {}
    bases = [b for b in reversed(group.__mro__) if b.__module__.startswith("jaxsim.")]
    for each in bases or [group]:
        source = textwrap.dedent(inspect.getsource(each))
        lines, (tree,) = source.splitlines(), ast.parse(source).body
        _, _, attributes = (inspect.getdoc(each) or "").partition("Attributes:\n")
        said = {
            name: " ".join(text.split())
            for names, text in re.findall(
                r"^  (\w[\w, ]*): (.*(?:\n    .*)*)", attributes, re.MULTILINE
            )
            for name in names.split(", ")
        }
        for node in typing.cast(ast.ClassDef, tree).body:
            if not isinstance(node, ast.AnnAssign):
                continue
            name = typing.cast(ast.Name, node.target).id
            start = above = node.lineno - 1
            while lines[above - 1].lstrip().startswith("#"):
                above -= 1
            own = lines[start : node.end_lineno]
            behind = [line.partition("  # ")[2] for line in own]
            comments = (line.strip(" #") for line in [*lines[above:start], *behind])
            found[name] = " ".join(filter(None, [said.get(name), *comments]))
    return found


def _nested(hint: Any) -> type | None:
    """The group of keys that a field is, or holds by name."""
    inner = typing.get_args(hint)[-1] if typing.get_origin(hint) is dict else hint
    return inner if dataclasses.is_dataclass(inner) else None


def _type(hint: Any) -> str:
    if typing.get_origin(hint) is Literal:
        return " or ".join(f"`{value!r}`" for value in typing.get_args(hint))
    text = str(hint) if typing.get_args(hint) else getattr(hint, "__name__", str(hint))
    text = re.sub(r"[a-z_]+[.]", "", text)
    text = re.sub(r"Annotated\[dict\[str, Any\], <class '(\w+)'>\]", r"\1", text)
    return f"`{text}`"


def _default(each: dataclasses.Field) -> str:
    if each.default_factory is not dataclasses.MISSING:
        return f"`{each.default_factory()!r}`"
    no_default = each.default is dataclasses.MISSING
    return "" if no_default else f"`{each.default!r}`"
