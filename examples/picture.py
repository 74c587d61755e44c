"""Pictures that can be read on a phone: narrow, and with what they show as the title."""

from io import BytesIO
from pathlib import Path
from textwrap import wrap

import matplotlib as mpl
from matplotlib.figure import Figure
from PIL import Image
from PIL.PngImagePlugin import PngInfo

WIDTH = 5  # inches, of 144 pixels
LETTERS = 47  # in a line of the title
STYLE = {
    "savefig.dpi": 144,
    "font.size": 10,
    "axes.titlesize": 10,
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "figure.titlesize": 11,
    "figure.titleweight": "bold",
    "legend.frameon": False,
}


def picture(finding: str, height: float) -> Figure:
    """Returns an empty figure with a title; `height` is in inches."""
    mpl.rcParams.update(STYLE)
    figure = Figure(figsize=(WIDTH, height), layout="constrained")
    figure.suptitle("\n".join(wrap(finding, LETTERS)), x=0.02, ha="left")
    return figure


def write(figure: Figure, path: Path, **metadata: str) -> None:
    """Writes a picture with 256 colors, which takes a third of the space."""
    buffer, texts = BytesIO(), PngInfo()
    figure.savefig(buffer)
    for name, text in metadata.items():
        texts.add_text(name, text)
    path.parent.mkdir(parents=True, exist_ok=True)
    colors = Image.open(buffer).convert("RGB").quantize(256)
    colors.save(path, optimize=True, pnginfo=texts)
    print(f"picture: {path}")
