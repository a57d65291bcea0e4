"""The explorer of mixtures, a part of the page: see explorer.html.j2, explorer.js."""

from pathlib import Path
from typing import Any

import numpy as np

from jaxsim.errors import command_line
from jaxsim.records import plain
from jaxsim.report.table import largest, target
from jaxsim.scoring.table import STANDARD_MERGES
from jaxsim.search.closed_form import ClosedForm

_FILE, _ROW = "mixture.csv", "mine"


def explorer(form: ClosedForm, place: Path) -> dict[str, Any]:
    """What the template shows: the closed form, and commands for its mixtures.

    Args:
      form: of the last search.
      place: the workdir in the commands.
    """
    export = f"--what={_FILE}:{_ROW}", "--recipe=json", "--to=recipe"
    labels = [
        p["name"] if p["name"] in STANDARD_MERGES else largest(p["weights"], 2)
        for p in form.presets
    ]
    # Half of each symmetric matrix, and fewer digits: most of the page's bytes.
    halves = [
        [np.round(row[: i + 1], 10).tolist() for i, row in enumerate(rows)]
        for rows in form.curve
    ]
    return {
        "form": plain(form) | {"curve": halves},
        "target": target(form.weights, form.kind),
        "labels": ["the answer", *labels[1:]],
        "file": _FILE,
        "row": _ROW,
        "commands": {
            "Score its merge": command_line("score", place, f"--mixtures={_FILE}"),
            "Train it and proportional": command_line(
                "validate", place, f"--mixtures={_FILE}"
            ),
            "Write its shares for a trainer": command_line("export", place, *export),
        },
    }
