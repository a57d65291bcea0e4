"""Writes the report of a workdir."""

from pathlib import Path

from jaxsim.config import Config


def write_report(config: Config, workdir: Path) -> Path:
    """Writes WORKDIR/report and returns its index.html."""
    path = Path(workdir) / "report" / "index.html"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"<!doctype html><title>{config.name!a}</title>\n")
    return path
