"""3x3 convolution by Winograd's minimal filtering [Lavin2015]: fewer products.

A third faster than the plain convolution on a CPU at extraction sizes; it rounds
differently (about 1e-5 of the largest value) and takes ten times as long to compile.
"""

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from delf_jax.models.convolution import multiply_rows

# outputs per tile side -> (input transform, kernel transform, output transform)
_TRANSFORMS = {
    2: (
        [[1, 0, -1, 0], [0, 1, 1, 0], [0, -1, 1, 0], [0, 1, 0, -1]],
        [[1, 0, 0], [1 / 2, 1 / 2, 1 / 2], [1 / 2, -1 / 2, 1 / 2], [0, 0, 1]],
        [[1, 1, 1, 0], [0, 1, -1, -1]],
    ),
    4: (
        [
            [4, 0, -5, 0, 1, 0],
            [0, -4, -4, 1, 1, 0],
            [0, 4, -4, -1, 1, 0],
            [0, -2, -1, 2, 1, 0],
            [0, 2, -1, -2, 1, 0],
            [0, 4, 0, -5, 0, 1],
        ],
        [
            [1 / 4, 0, 0],
            [-1 / 6, -1 / 6, -1 / 6],
            [-1 / 6, 1 / 6, -1 / 6],
            [1 / 24, 1 / 12, 1 / 6],
            [1 / 24, -1 / 12, 1 / 6],
            [0, 0, 1],
        ],
        [
            [1, 1, 1, 1, 1, 0],
            [0, 1, -1, 2, -2, 0],
            [0, 1, 1, 4, 4, 0],
            [0, 1, -1, 8, -8, 1],
        ],
    ),
}


def convolve_3x3(
    x: Float[Array, "B H W C"], kernel: Float[Array, "3 3 C F"]
) -> Float[Array, "B H W F"]:
    """The 3x3 convolution with stride 1 and a border of zeros."""
    # larger tiles save more products but move more data: that pays from 128 channels
    tile = 2 if x.shape[-1] <= 64 else 4
    inputs, kernels, outputs = _TRANSFORMS[tile]
    height, width = x.shape[1:3]
    rows, columns = -(-height // tile), -(-width // tile)
    borders = ((1, rows * tile + 1 - height), (1, columns * tile + 1 - width))
    x = jnp.pad(x, ((0, 0), *borders, (0, 0)))
    g = np.array(kernels, np.float32)
    kernel = jnp.einsum("ik,klcf,jl->ijcf", g, kernel, g)

    across = [x[:, k : k + tile * rows : tile][:, :rows] for k in range(tile + 2)]
    products = []
    for i, row in enumerate(inputs):
        y = _combine(row, across)
        down = [y[:, :, k : k + tile * columns : tile] for k in range(tile + 2)]
        products.append(
            [
                multiply_rows(_combine(column, down), kernel[i, j])
                for j, column in enumerate(inputs)
            ]
        )
    by_row = [
        [_combine(row, [line[j] for line in products]) for j in range(tile + 2)]
        for row in outputs
    ]
    cells = [
        jnp.stack([_combine(column, line) for column in outputs], 3) for line in by_row
    ]
    y = jnp.stack(cells, 2)
    y = y.reshape(x.shape[0], rows * tile, columns * tile, kernel.shape[-1])
    return y[:, :height, :width]


def _combine(
    weights: list[int | float], arrays: list[Float[Array, "..."]]
) -> Float[Array, "..."]:
    """The weighted sum, without what has weight 0."""
    terms = [
        weight * array
        for weight, array in zip(weights, arrays, strict=True)
        if weight != 0
    ]
    return sum(terms[1:], terms[0])
