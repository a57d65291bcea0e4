"""Changes records on disk as somebody would who knows how they are sealed."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from jaxsim import records


def edit(path: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    """Changes the content of a record in place, and seals it again."""
    data = json.loads(path.read_text())
    change(data)
    path.write_text(sealed(data))


def sealed(data: dict[str, Any]) -> str:
    """The text of a record with the seal that fits it."""
    data.pop("sha256", None)
    return json.dumps(data | {"sha256": records.digest(data)})
