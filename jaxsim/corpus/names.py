"""Checks of names that become keys of tables and parts of paths.

Names come from configs and from metadata of other people's text, and become folders
of a pool. Bad names are refused, because a repaired name could equal another one.
"""

import unicodedata
from collections.abc import Iterable

from jaxsim.errors import UserError

MAX_NAME_BYTES = 100


def check_name(name: str, what: str) -> str:
    """Returns `name` if it is safe as one path component on any file system.

    Raises:
      UserError: it is not; says what the name is for and what is wrong.
    """
    if problem := _problem(name):
        raise UserError(
            f"{what}: the name {name[:200]!r} {problem}; choose a plain name"
        )
    return name


def _problem(name: str) -> str:
    if not name:
        return "is empty"
    if name in (".", ".."):
        return "means a folder"
    if "/" in name or "\\" in name:
        return "holds a path separator"
    # Cc: control (with NUL); Cf: invisible; Cs: lone surrogates; Zl, Zp: line ends.
    if any(unicodedata.category(c) in ("Cc", "Cf", "Cs", "Zl", "Zp") for c in name):
        return "holds control characters, invisible ones or lone surrogates"
    if any(c in "*?[]" for c in name):  # Orbax reads them as a pattern
        return "holds one of the signs * ? [ ]"
    if name[0] in ".-":
        return f"starts with {name[0]!r}"
    if name != name.strip():
        return "starts or ends with a space"
    if len(name.encode("utf-8")) > MAX_NAME_BYTES:
        return f"is longer than {MAX_NAME_BYTES} bytes of UTF-8"
    if not unicodedata.is_normalized("NFC", name):
        return "is not in Unicode form NFC"
    return ""


def check_twins(names: Iterable[str], what: str = "names") -> None:
    """Checks that all file systems can tell the names apart.

    Raises:
      UserError: two names are equal after NFC and case folding.
    """
    seen: dict[str, str] = {}
    for name in names:
        key = unicodedata.normalize("NFC", name)
        key = unicodedata.normalize("NFC", key.casefold())
        if key in seen:
            raise UserError(
                f"{what}: {seen[key]!r} and {name!r} are the same name up to "
                "case and Unicode form; rename one of them"
            )
        seen[key] = name
