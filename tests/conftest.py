"""Eight host devices, set before JAX starts, and the option `--fast`.

JAXSIM_TEST_DEVICES=1 runs the tests on one device, as a second job of the workflow
does: the number cannot change once JAX has started.
"""

import os
from collections.abc import Iterator
from pathlib import Path

import jax
import pytest

from jaxsim.log import showing_details

jax.config.update("jax_platforms", "cpu")
jax.config.update(
    "jax_num_cpu_devices", int(os.environ.get("JAXSIM_TEST_DEVICES", "8"))
)

# What `--fast` leaves out: files and tests, measured with `--durations=0`.
SLOW = tuple((Path(__file__).parent / "slow.txt").read_text().split())


@pytest.fixture(scope="session")
def root() -> Path:
    """The root of the repository."""
    return Path(__file__).resolve().parent.parent


@pytest.fixture
def verbose() -> Iterator[None]:
    """Shows what `--verbose` shows."""
    with showing_details():
        yield


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--fast", action="store_true", help="leave out tests/slow.txt")


def pytest_collection_modifyitems(
    config: pytest.Config, items: list[pytest.Item]
) -> None:
    if not config.getoption("fast"):
        return
    for entry in SLOW:  # a renamed test must not become fast
        file = entry.partition("::")[0]
        here = [item.nodeid for item in items if item.nodeid.startswith(file)]
        if not (config.rootpath / file).is_file() or (
            here and not any(name.startswith(entry) for name in here)
        ):
            raise pytest.UsageError(f"tests/slow.txt: there is no {entry}")
    slow = [item for item in items if item.nodeid.startswith(SLOW)]
    kept = [item for item in items if not item.nodeid.startswith(SLOW)]
    counts = {"kept": len(kept), "all": len(items)}
    config.stash[COUNTS] = counts
    if hasattr(config, "workeroutput"):  # of pytest-xdist
        config.workeroutput["counts"] = counts
    config.hook.pytest_deselected(items=slow)
    items[:] = kept


COUNTS = pytest.StashKey[dict[str, int]]()


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node) -> None:
    if "counts" in getattr(node, "workeroutput", {}):
        node.config.stash[COUNTS] = node.workeroutput["counts"]


def pytest_terminal_summary(terminalreporter, config: pytest.Config) -> None:
    if counts := config.stash.get(COUNTS, None):
        terminalreporter.write_line(
            f"--fast: {counts['kept']} of {counts['all']} tests; the others are in "
            "tests/slow.txt"
        )
