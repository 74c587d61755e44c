"""The network that the examples train, and its data: scikit-learn's 1,797 8x8 digits."""

import mlx.core as mx
import mlx.nn as nn
import numpy as np
from numpy.typing import NDArray
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

from chandrop.nn import Dropout2d

Floats = NDArray[np.floating]
Labels = NDArray[np.integer]


class DigitNetwork(nn.Module):
    """Three convolutions, each followed by channel dropout, and a linear layer."""

    def __init__(self, p: float = 0.2):
        super().__init__()
        self.convolutions = [
            nn.Conv2d(1, 16, kernel_size=3, padding=1),
            nn.Conv2d(16, 32, kernel_size=3, padding=1),
            nn.Conv2d(32, 32, kernel_size=3, padding=1),
        ]
        self.dropouts = [Dropout2d(p) for _ in self.convolutions]
        self.pool = nn.MaxPool2d(kernel_size=2, stride=2)
        self.head = nn.Linear(32 * 2 * 2, 10)

    def __call__(self, x: mx.array) -> mx.array:
        """Returns logits ``(B, 10)`` for images ``(B, 8, 8, 1)``."""
        for place, (convolution, dropout) in enumerate(
            zip(self.convolutions, self.dropouts, strict=True)
        ):
            x = dropout(nn.relu(convolution(x)))
            if place < 2:
                x = self.pool(x)
        return self.head(x.flatten(1))


def load_split_digits() -> tuple[Floats, Floats, Labels, Labels]:
    """Returns training and test images ``(B, 8, 8, 1)``, then their labels."""
    digits = load_digits()
    images = (digits.images[..., None] / 16).astype(np.float32)
    return train_test_split(
        images, digits.target, test_size=0.25, random_state=0, stratify=digits.target
    )
