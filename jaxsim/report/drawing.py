"""What all figures share. Matplotlib is imported when one is drawn.

Names come from other people's text, so nothing in them is read as mathematics.
Colours are told apart by colour-blind readers too (Okabe and Ito).
"""

import contextlib
import io
import warnings
from collections.abc import Iterator
from typing import Any

BLUE, ORANGE, GREY, INK = "#0072B2", "#D55E00", "#8a8f98", "#1f2933"
_DPI = 220
_FALLBACK_FONTS = (
    "Noto Sans CJK JP", "Noto Sans CJK SC", "Noto Sans", "Arial Unicode MS",
    "PingFang SC", "Microsoft YaHei", "WenQuanYi Zen Hei",
)  # fmt: skip


@contextlib.contextmanager
def canvas(width: float, height: float) -> Iterator[tuple[Any, io.BytesIO]]:
    """An empty figure; what was drawn is PNG in the buffer afterwards."""
    import matplotlib
    import matplotlib.figure
    import matplotlib.font_manager

    installed = set(matplotlib.font_manager.get_font_names())
    style: Any = {  # the keys that the stubs know differ by version
        "font.family": [
            "DejaVu Sans",
            *(name for name in _FALLBACK_FONTS if name in installed),
        ],
        "font.size": 9,
        "text.parse_math": False,
        "text.usetex": False,
        "text.color": INK,
        "axes.labelcolor": INK,
        "axes.edgecolor": "#b8bec7",
        "axes.spines.top": False,
        "axes.spines.right": False,
        "xtick.color": INK,
        "ytick.color": INK,
        "savefig.dpi": _DPI,
    }
    png = io.BytesIO()
    with matplotlib.rc_context(style), warnings.catch_warnings():
        # A script without a font here shows as boxes; the page has the names.
        warnings.filterwarnings("ignore", message="Glyph .* missing")
        figure = matplotlib.figure.Figure((width, height), layout="constrained")
        yield figure, png
        figure.savefig(png, format="png", metadata={"Software": None})
