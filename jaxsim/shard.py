"""Which share of the runs is this launcher's: `--shard=i/n`, or of Slurm."""

import re
from collections.abc import Mapping

from jaxsim.errors import UserError

_ARRAY = "SLURM_ARRAY_TASK_"


def parse_shard(text: str, environment: Mapping[str, str]) -> tuple[int, int]:
    """Share i of n from '2/8', or from 'slurm' in a task of a job array.

    Raises:
      UserError: it is neither, or there is no array whose tasks are numbered
        without a gap.
    """
    if text == "slurm":
        return _slurm_share(environment)
    match = re.fullmatch(r"(\d+)/(\d+)", text)
    if not match or not int(match[1]) < int(match[2]):
        raise UserError(
            f"--shard={text}: must be i/n with i from 0 to n-1, as in 0/4, or "
            "slurm"
        )
    return int(match[1]), int(match[2])


def _slurm_share(environment: Mapping[str, str]) -> tuple[int, int]:
    try:
        task, count, low, high = (
            int(environment[_ARRAY + name])
            for name in ("ID", "COUNT", "MIN", "MAX")
        )
    except (KeyError, ValueError) as error:
        raise UserError(
            f"--shard=slurm: {_ARRAY}ID, COUNT, MIN and MAX are not set; use "
            "it in a job array (sbatch --array=0-7), or give --shard=i/n"
        ) from error
    # From 1,3,7 or 0-6:2 one cannot tell which share a task has.
    if high - low + 1 != count or not low <= task <= high:
        raise UserError(
            f"--shard=slurm: the array has {count} tasks numbered from {low} "
            f"to {high}; number them without a gap, as in --array=0-{count - 1}"
        )
    return task - low, count
