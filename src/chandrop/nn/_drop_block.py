import mlx.core as mx

from chandrop import functional
from chandrop.functional._drop_block import as_block_size
from chandrop.nn._channel_layer import LayoutLayer


class _BlockLayer(LayoutLayer):
    """A layer that drops blocks of one size."""

    def __init__(
        self,
        p: float | mx.array,
        block_size: int,
        *,
        groups: int | None = None,
        key: mx.array | None = None,
    ):
        super().__init__(p, groups=groups, key=key)
        self._block_size = as_block_size(block_size)

    def _check_axes(self, x: mx.array) -> None:
        super()._check_axes(x)
        as_block_size(self._block_size, x.shape, self._spatial_axes)

    def _drop(self, x: mx.array, key: mx.array) -> mx.array:
        return self._function(x, self.p, key, self._block_size, groups=self._groups)

    def _extra_repr(self) -> str:
        return f"{super()._extra_repr()}, block_size={self._block_size}"


class DropBlock2d(_BlockLayer):
    r"""Drops square blocks of channels.

    Args:
        p: the probability of dropping a pixel: a number in ``[0, 1]``, or an array that
            broadcasts to ``(N, 1, 1, C)``, such as ``(C,)``.
        block_size: the side of a block in pixels, at most that of the input.
        groups: how many groups of channels share their blocks; 1 for all. Default: every
            channel has its own.
        key: the key to begin with, ``(2,)``; see :class:`Dropout`.

    Shape:
        Input and output: ``NHWC`` or ``HWC``, of a floating-point or complex dtype.

    Raises:
        TypeError: `block_size` is not an int; see :class:`Dropout`.
        ValueError: `block_size` is below 1, or larger than the input; see :class:`Dropout`;
            the input has another rank.

    Example:
        >>> import mlx.core as mx
        >>> from chandrop.nn import DropBlock2d
        >>> DropBlock2d(p=0.1, block_size=3)(mx.ones((8, 28, 28, 16))).shape
        (8, 28, 28, 16)

    Source: Ghiasi, Lin and Le, "DropBlock: a regularization method for convolutional
    networks", NeurIPS 2018; see :func:`chandrop.functional.drop_block2d`.
    """

    _function = staticmethod(functional.drop_block2d)
    _spatial_axes = (-3, -2)


class DropBlock3d(_BlockLayer):
    r"""Drops cubes of channels.

    Args:
        p: the probability of dropping a voxel: a number in ``[0, 1]``, or an array that
            broadcasts to ``(N, 1, 1, 1, C)``, such as ``(C,)``.
        block_size: the side of a block in voxels, at most that of the input.
        groups: how many groups of channels share their blocks; 1 for all. Default: every
            channel has its own.
        key: the key to begin with, ``(2,)``; see :class:`Dropout`.

    Shape:
        Input and output: ``NDHWC`` or ``DHWC``, of a floating-point or complex dtype.

    Raises:
        TypeError: `block_size` is not an int; see :class:`Dropout`.
        ValueError: `block_size` is below 1, or larger than the input; see :class:`Dropout`;
            the input has another rank.

    Example:
        >>> import mlx.core as mx
        >>> from chandrop.nn import DropBlock3d
        >>> DropBlock3d(p=0.1, block_size=3)(mx.ones((2, 8, 14, 14, 16))).shape
        (2, 8, 14, 14, 16)

    Source: Ghiasi, Lin and Le, "DropBlock: a regularization method for convolutional
    networks", NeurIPS 2018; see :func:`chandrop.functional.drop_block3d`.
    """

    _function = staticmethod(functional.drop_block3d)
    _spatial_axes = (-4, -3, -2)
