"""Checks of names that become keys of tables and parts of paths.

Names come from configs and from metadata of other people's text, and become folders
of a pool. Bad names are refused, because a repaired name could equal another one.
"""

import re
import unicodedata
from collections.abc import Iterable

from jaxsim.errors import UserError

MAX_NAME_BYTES = 100


class Labels:
    """Names that jaxsim gives where members, groups and domains stand with theirs.

    All such names are made from here, so that `check_free` refuses every one of them.
    """

    # Rows of a table of mixtures, and folders of a pool.
    BASE = "base"
    UNIFORM, PROPORTIONAL, MACRO = "uniform", "proportional", "macro"
    BEST = "best"
    GROUP, SUBSET, POINT = "group {}", "{} + {}", "{} x {:g}"
    DIRICHLET, FOUND, CHECK = "dirichlet {:d}", "found {:d}", "check {:d}"
    REFERENCE, REPLICATE = "reference-{:010x}", "{}.replicate{:d}"
    # Targets; `MACRO` is one, too.
    MACRO_OUT_OF_POOL, MACRO_IN_POOL = "macro out-of-pool", "macro in-pool"
    OBJECTIVE = "the objective"
    # Columns of tables.
    NAME, SCALE, UNIT, MIXTURE = "name", "scale", "unit", "mixture"


_FIELDS = {"": ".+", "d": r"\d+", "g": r"[\d.e+-]+", "010x": "[0-9a-f]{10}"}
_LABELS = "|".join(re.escape(x) for key, x in vars(Labels).items() if key.isupper())
# Matches all names that can be made from labels, in any case.
LABEL = re.compile(
    re.sub(r"\\{:?(\w*)\\}", lambda field: _FIELDS[field[1]], _LABELS), re.IGNORECASE
)


def check_name(name: str, what: str) -> str:
    """Returns a name that is safe as one path component on any file system.

    Raises a `UserError` that says `what` any other one is for, and what is wrong.
    """
    # Cc: control (with NUL); Cf: invisible; Cs: lone surrogates; Zl, Zp: line ends.
    unseen = ("Cc", "Cf", "Cs", "Zl", "Zp")
    size = len(name.encode("utf-8", "surrogatepass"))
    problems = {
        "is empty": not name,
        "means a folder": name in (".", ".."),
        "holds a path separator": "/" in name or "\\" in name,
        "holds control characters, invisible ones or lone surrogates": any(
            unicodedata.category(c) in unseen for c in name
        ),
        # Orbax reads them as a pattern.
        "holds one of the signs * ? [ ]": any(c in "*?[]" for c in name),
        f"starts with {name[:1]!r}": name.startswith((".", "-")),
        "starts or ends with a space": name != name.strip(),
        f"is longer than {MAX_NAME_BYTES} bytes of UTF-8": size > MAX_NAME_BYTES,
        "is not in Unicode form NFC": not unicodedata.is_normalized("NFC", name),
    }
    for problem, found in problems.items():
        if found:
            raise UserError(
                f"{what}: the name {name[:200]!r} {problem}; choose a plain name"
            )
    return name


def check_free(name: str, what: str) -> str:
    """Returns a name that passes `check_name`, and is none of `Labels`."""
    check_name(Labels.REPLICATE.format(check_name(name, what), 1), what)  # a folder
    if LABEL.fullmatch(name):
        raise _taken(name, what)
    return name


def _taken(name: str, what: str) -> UserError:
    return UserError(
        f"{what}: jaxsim itself uses the name {name!r} in its tables and folders; "
        "choose another name"
    )


def check_domain(name: str, what: str) -> str:
    """Returns a name of an out-of-pool domain: one that is free, or SOURCE/VALUE.

    Other names must not hold a slash: they become folders, and these never do.
    """
    source, slash, value = name.partition("/")
    check_free(source, what)
    if slash:
        check_name(value, what)
        if LABEL.fullmatch(name):
            raise _taken(name, what)
    return name


def check_twins(names: Iterable[str], what: str = "names") -> None:
    """Raises a `UserError` if two names are equal after NFC and case folding."""
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
