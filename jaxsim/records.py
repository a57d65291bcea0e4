"""Records: files written in one step, and read only if they are intact.

What a command leaves for a later one is a record: a JSON object with its kind, the
version of all formats, the SHA-256 of its content, and the fields of a dataclass.
Reading one gives that dataclass, or an error that names the file and says what to
do: what is read is checked as strictly as what is computed.

`Basis` lists what a result was computed from, and decides whether it still holds.
"""

import contextlib
import dataclasses
import errno
import fcntl
import hashlib
import io
import json
import math
import os
import shutil
import types
import typing
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Annotated, Any, Literal, Self, TypeVar

from jaxsim.errors import DamagedError, UserError

T = TypeVar("T")

MAY_NOT_WRITE = (errno.EROFS, errno.EACCES, errno.EPERM)
VERSION = 8  # of all files; raised whenever one of them changes
LARGEST = 1 << 30  # bytes of a record; a table of 100,000 mixtures has 0.2 GB
# A row of a table for people: code reads it as it likes, a file must hold plain cells.
Cell = bool | int | float | str | list[str] | list[float | None] | None
Row = Annotated[dict[str, Any], dict[str, Cell]]
# What jaxsim reads and writes in a workdir.
PARTS = (
    "base", "config.json", "corpus", "metrics", "pool", "report", "scores", "search",
    "state", "validation",
)  # fmt: skip


def check_tree(workdir: Path) -> None:
    """Refuses a workdir that is not made of regular files and folders alone.

    It may come from somebody else: writing through a link would change files elsewhere,
    and reading a named pipe may never end. The workdir itself may be a link, and other
    things than `PARTS` are not looked at.

    Raises:
      DamagedError: names the first link, pipe or device.
    """
    folders = [str(workdir)]
    for folder in folders:  # which grows
        try:
            entries = list(os.scandir(folder))
        except FileNotFoundError:
            continue  # another launcher has just finished with it
        except OSError as error:
            raise DamagedError(f"{folder}: cannot be read: {error.strerror}") from error
        for entry in entries:
            if folder == folders[0] and entry.name not in PARTS:
                continue
            if entry.is_dir(follow_symlinks=False):
                folders.append(entry.path)
            elif not entry.is_file(follow_symlinks=False) and os.path.lexists(entry):
                what = "a symbolic link" if entry.is_symlink() else "no regular file"
                raise DamagedError(
                    f"{entry.path}: is {what}, and a workdir has none; replace it by "
                    "what it points to, or delete it (for training states on another "
                    "disk there is config.train.state_path)"
                )


def write(path: Path, content: str | bytes | Callable[[IO[bytes]], Any]) -> None:
    """Writes a whole file in one step, or leaves the old one; makes its folder.

    `content` may be a function that writes it to an open file. In a folder that is
    read-only, a file that has this content already is left as it is.

    A writer locks its part, so the next one can delete parts of killed writers. Where
    locks do not reach other machines, a part may be deleted while it is written; then
    it is written again.
    """
    data = content.encode() if isinstance(content, str) else content
    fill = data if callable(data) else lambda file: file.write(data)
    path.parent.mkdir(parents=True, exist_ok=True)
    with naming(path):
        _delete_parts(path)
        while not _replaced(path, fill):
            pass


def _replaced(path: Path, fill: Callable[[IO[bytes]], Any]) -> bool:
    """Writes a part and renames it; false if another writer has deleted it."""
    # A name of its own: two processes may write the same file.
    part = path.with_name(f".{path.name}.{uuid.uuid4().hex[:12]}")
    try:
        file = part.open("xb")
    except OSError as error:
        if error.errno not in MAY_NOT_WRITE or not path.is_file():
            raise
        fill(wanted := io.BytesIO())
        if path.read_bytes() != wanted.getvalue():
            raise
        return True
    try:
        with file:
            with contextlib.suppress(OSError):  # a file system without locks
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            fill(file)
            file.flush()
            os.fsync(file.fileno())
            with contextlib.suppress(FileNotFoundError):
                os.replace(part, path)
                return True
    finally:
        part.unlink(missing_ok=True)
    return False


def _delete_parts(path: Path) -> None:
    """Deletes the parts of a file that no process has locked."""
    start = f".{path.name}."
    for name in os.listdir(path.parent):
        if name.startswith(start) and len(name) == len(start) + 12:
            part = path.with_name(name)
            # Nothing is deleted where there are no locks.
            with contextlib.suppress(OSError), part.open("r+b") as file:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                part.unlink()


@contextlib.contextmanager
def naming(path: Path) -> Iterator[None]:
    """Makes errors of the system name this file; that of a full disk names none."""
    try:
        yield
    except OSError as error:
        error.filename = str(path)
        raise


def free_bytes(path: Path) -> int:
    """Free bytes of the file system where a file is, or would be."""
    path = path.absolute()
    return shutil.disk_usage(next(p for p in (path, *path.parents) if p.exists())).free


def save(path: Path, record: Any) -> None:
    """Writes a dataclass as a record."""
    write(path, dump(record))


def dump(record: Any) -> str:
    """The text of a record.

    Raises:
      UserError: a field does not have the type that its dataclass says, so that
        the record could not be read back.
    """
    kind = type(record)
    body = plain(record)
    from_plain(kind, body, kind.__name__)
    head = {"record": kind.__name__, "version": VERSION}
    sealed = head | {"sha256": digest(head | body)} | body
    return json.dumps(sealed, indent=1, allow_nan=False) + "\n"


def load(path: Path, kind: type[T], advice: str) -> T:
    """Reads the record in a file; `kind` is the dataclass that it holds.

    `advice` is what to do if it cannot be used, such as "run `jaxsim search` again".

    Raises:
      DamagedError: it is unreadable, of another kind or version, was altered, or a
        field does not have the type that its dataclass says.
    """
    try:
        if path.exists() and not path.is_file():
            raise ValueError("no regular file")
        if (size := path.stat().st_size) > LARGEST:
            raise ValueError(f"{size:,} bytes are too many")
        text = path.read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        raise DamagedError(f"{path}: unreadable ({error}); {advice}") from error
    return parse(text, kind, path, advice)


class Stored:
    """A record that has one file of its own in a workdir.

    Attributes:
      FILE: its path in the workdir.
      ADVICE: what to do if it cannot be used; see `load`.
    """

    FILE = ADVICE = ""

    def save(self, workdir: Path) -> None:
        """Replaces the file."""
        save(workdir / self.FILE, self)

    @classmethod
    def load(cls, workdir: Path) -> Self | None:
        """What the file holds, if there is one; raises as `load` does."""
        path = workdir / cls.FILE
        return load(path, cls, cls.ADVICE) if path.exists() else None


def parse(text: str, kind: type[T], where: Path | str, advice: str) -> T:
    """Reads a record from its text, as `load` does; `where` it is from."""
    try:
        data = json.loads(text)
        if not isinstance(data, dict):
            raise ValueError("not a JSON object")
        if (version := data.get("version")) != VERSION:
            raise DamagedError(
                f"{where}: format version {version!r}, and this version of jaxsim "
                f"reads {VERSION}; use the version that wrote it, or make everything "
                "again with `jaxsim run --config=FILE.py` and another --workdir. If "
                f"this version wrote it, {advice}"
            )
        if data.get("record") != kind.__name__:
            raise ValueError(f"not a record of kind {kind.__name__}")
        if data.pop("sha256", None) != digest(data):
            raise ValueError("it was altered after it was written")
        del data["record"], data["version"]
        return from_plain(kind, data, kind.__name__)
    except (ValueError, RecursionError, UserError) as error:
        raise DamagedError(f"{where}: unreadable ({error}); {advice}") from error


def digest(value: Any) -> str:
    """SHA-256 of plain data; the order of keys makes no difference."""
    text = json.dumps(value, sort_keys=True, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def plain(value: Any) -> Any:
    """The value as strict JSON holds it; what is not finite becomes None."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        value = {f.name: getattr(value, f.name) for f in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(key): plain(v) for key, v in value.items()}
    if isinstance(value, list | tuple):
        return [plain(v) for v in value]
    if hasattr(value, "tolist"):  # an array or a scalar of NumPy or JAX
        return plain(value.tolist())
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def from_plain(kind: Any, value: Any, key: str) -> Any:
    """The value as an instance of a type hint, checked all the way down.

    Knows dataclasses, typed and other dictionaries, lists, tuples, `Literal`, unions,
    None, str, bool, int and finite floats. `Any` is not checked, and of `Annotated`
    what follows the comma is; the value stays plain. A dataclass's field may have a
    bound (see `jaxsim.config`), which must hold; its `check_parts` must not raise.

    Raises:
      UserError: names the key, what it must be, and what it is.
    """
    if kind is Any:
        return value
    if dataclasses.is_dataclass(kind) or typing.is_typeddict(kind):
        return _named_fields(kind, value, key)
    origin, args = typing.get_origin(kind), typing.get_args(kind)
    if origin is typing.NotRequired:
        return from_plain(args[0], value, key)
    if origin is Annotated:
        from_plain(args[1], value, key)
        return value
    if origin in (types.UnionType, typing.Union):
        if value is None and types.NoneType in args:
            return None
        *others, last = (a for a in args if a is not types.NoneType)
        for one in others:
            with contextlib.suppress(UserError):
                return from_plain(one, value, key)
        return from_plain(last, value, key)
    if origin in (dict, Mapping):
        need(isinstance(value, Mapping), "a dictionary", value, key)
        return {
            from_plain(args[0], k, key): from_plain(args[1], v, f"{key}.{k}")
            for k, v in value.items()
        }
    if origin in (list, Sequence):
        need(isinstance(value, list), "a list", value, key)
        # Rows of a table are long, and have nothing to convert.
        if args[0] is float and all(type(v) is float and v - v == 0 for v in value):
            return value
        return [from_plain(args[0], v, f"{key}[{i}]") for i, v in enumerate(value)]
    if origin is tuple:
        need(isinstance(value, tuple | list), "a tuple", value, key)
        if args[-1] is Ellipsis:
            args = (args[0],) * len(value)
        need(len(args) == len(value), f"{len(args)} values", value, key)
        return tuple(from_plain(args[i], v, f"{key}[{i}]") for i, v in enumerate(value))
    if origin is Literal:
        need(value in args, f"one of {', '.join(args)}", value, key)
        return value
    exact = kind is bool or not isinstance(value, bool)  # which is an int
    is_small = not isinstance(value, int) or abs(value) < 2**63  # as NumPy's are
    need(is_small, "below 2**63", value, key)
    if kind is float and isinstance(value, int) and exact:
        return float(value)
    need(exact and isinstance(value, kind), kind.__name__, value, key)
    need(kind is not float or math.isfinite(value), "finite", value, key)
    return value


def _named_fields(kind: Any, value: Any, key: str) -> Any:
    """A dataclass or typed dictionary."""
    need(isinstance(value, Mapping), "a group of keys", value, key)
    hints = typing.get_type_hints(kind, include_extras=True)
    if unknown := [k for k in value if k not in hints]:
        raise UserError(
            f"{key}.{unknown[0]}: unknown key; known here: {', '.join(hints)}"
        )
    required = getattr(kind, "__required_keys__", hints)
    if missing := [k for k in hints if k not in value and k in required]:
        raise UserError(f"{key}.{missing[0]}: missing")
    made = kind(**{k: from_plain(hints[k], v, f"{key}.{k}") for k, v in value.items()})
    for each in dataclasses.fields(kind) if dataclasses.is_dataclass(kind) else ():
        name, found = f"{key}.{each.name}", getattr(made, each.name)
        holds, must_be = each.metadata.get("bound", (None, ""))
        if holds and isinstance(found, dict):
            for k, v in found.items():
                need(holds(v), must_be, v, f"{name}.{k}")
        elif holds:
            need(holds(found), must_be, found, name)
    if hasattr(made, "check_parts"):
        made.check_parts()
    return made


def need(ok: bool, what: str, value: Any, key: str) -> None:
    """Refuses a value of a wrong type, or an impossible one."""
    if not ok:
        raise UserError(f"{key}: must be {what}, is {value!r}")


def need_names(value: Mapping[str, Any], names: Iterable[str], key: str) -> None:
    """Refuses a dictionary that has other keys, or fewer."""
    known = set(names)
    need(set(value) == known, f"{sorted(known)}", sorted(value), f"{key}, keys")


def need_shape(value: Sequence[Any], shape: Sequence[int], key: str) -> None:
    """Refuses nested lists whose lengths are not these."""
    need(len(value) == shape[0], f"{shape[0]}", len(value), f"{key}, length")
    for each in value if shape[1:] else ():
        need_shape(each, shape[1:], key)


@dataclasses.dataclass(frozen=True)
class Basis:
    """What a result was computed from: the one answer to "does it still hold?"."""

    text: str = ""  # digest of the evaluation text
    # Digests of what corpus.json says of each domain and member's unit.
    corpus: dict[str, str] = dataclasses.field(default_factory=dict)
    base: str = ""  # `params_digest` of the base model
    # Those of all members of the pool, by name; empty if it is about single entries.
    members: dict[str, str] = dataclasses.field(default_factory=dict)
    # Those of the reference runs and replicates used.
    others: dict[str, str] = dataclasses.field(default_factory=dict)

    def difference(self, now: "Basis") -> str:
        """The first thing that has changed since, in words; '' if nothing has.

        A result's own reference runs and replicates may be a part of those of `now`.
        """
        if self.base != now.base:
            return "the base model has changed"
        for name in sorted(now.members.keys() - self.members if self.members else ()):
            return f"member {name!r} is new"
        for kind, then, there in (
            ("member", self.members, now.members),
            ("run", self.others, now.others),
            ("the corpus:", self.corpus, now.corpus),
        ):
            for name, digest_then in sorted(then.items()):
                if (found := there.get(name)) != digest_then:
                    what = "is gone" if found is None else "has changed"
                    return f"{kind} {name!r} {what}"
        return "" if self.text == now.text else "the evaluation text has changed"

    def same_pool(self, other: "Basis") -> bool:
        """Whether two results are of the same members and the same text."""
        return not dataclasses.replace(self, others={}).difference(other)
