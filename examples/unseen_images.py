"""Images that the digit network was not trained on: turned digits, noise and letters."""

from string import ascii_uppercase

import numpy as np
from digit_network import Floats
from matplotlib.font_manager import FontProperties, findfont
from PIL import Image, ImageDraw, ImageFont, ImageOps
from scipy.ndimage import rotate

LETTERS = [letter for letter in ascii_uppercase if letter not in "BDGIOQSZ"]


def turned(images: Floats, degrees: float) -> Floats:
    """Turns each image by a random angle, up to `degrees` either way."""
    angles = np.random.default_rng(0).uniform(-degrees, degrees, len(images))
    pairs = zip(images, angles, strict=True)
    turns = [rotate(image, angle, reshape=False, order=1) for image, angle in pairs]
    return np.stack(turns).clip(0, 1)


def shuffled(images: Floats) -> Floats:
    """Returns noise: each image with its pixels in a random order."""
    pixels = images.reshape(len(images), -1)
    return np.random.default_rng(0).permuted(pixels, axis=1).reshape(images.shape)


def printed_letters() -> Floats:
    """Returns capital letters in twelve styles of DejaVu, which matplotlib ships.

    Letters that look like digits at this size are left out.
    """
    styles = [
        FontProperties(family=f"DejaVu {family}", weight=weight, style=style)
        for family in ("Sans", "Serif", "Sans Mono")
        for weight in ("normal", "bold")
        for style in ("normal", "oblique")
    ]
    fonts = [ImageFont.truetype(findfont(style), size=128) for style in styles]
    return np.stack([_printed(letter, font) for font in fonts for letter in LETTERS])


def _printed(letter: str, font: ImageFont.FreeTypeFont) -> Floats:
    """Reduces a letter as the digits were: from 32x32 pixels to 8x8 with 17 levels."""
    canvas = Image.new("L", (256, 256))
    ImageDraw.Draw(canvas).text((64, 64), letter, fill=255, font=font)
    small = ImageOps.pad(canvas.crop(canvas.getbbox()), (32, 32)).reduce(4)
    levels = np.round(np.asarray(small, dtype=np.float32)[..., None] / 255 * 16)
    return levels / 16
