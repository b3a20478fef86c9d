"""Alpha from a trimap by closed-form matting.

Source: A. Levin, D. Lischinski, Y. Weiss, "A Closed-Form Solution to Natural Image Matting", PAMI 30(2), 2008.
Only rows of unknown pixels are built, and a weak pull towards a prior keeps regions decided that touch nothing known.
"""

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray
from scipy.ndimage import maximum_filter
from scipy.sparse import coo_array
from scipy.sparse.linalg import cg

_WINDOW = 9
_REACH = 5
_CHUNK = 16384


def closed_form_alpha(
    image: NDArray[np.float64],
    trimap: NDArray[np.float32],
    prior: NDArray[np.float32],
    *,
    epsilon: float = 1e-5,
    pull: float = 5e-4,
    tolerance: float = 3e-4,
) -> NDArray[np.float32]:
    """Solve for the opacity of the unknown pixels.

    Args:
        image: RGB in [0, 1], (H, W, 3).
        trimap: (H, W); 1 surely person, 0 surely not, anything between is unknown.
        prior: (H, W) in [0, 1], the opacity believed before.
        epsilon: regularisation of the windows' colour covariance.
        pull: weight of the prior.
        tolerance: of the conjugate gradients, relative.

    Returns:
        (H, W) in [0, 1]; known pixels keep 0 and 1.
    """
    unknown = (trimap > 0) & (trimap < 1)
    alpha = np.where(unknown, prior, trimap).astype(np.float64)
    count = int(unknown.sum())
    if count == 0:
        return alpha.astype(np.float32)
    rows, columns = np.nonzero(unknown)
    stencil = _laplacian_rows(image, unknown, epsilon)
    offsets = np.arange(_REACH * _REACH)
    near_rows = rows[:, None] + offsets // _REACH - 2
    near_columns = columns[:, None] + offsets % _REACH - 2
    inside = (near_rows >= 0) & (near_rows < image.shape[0]) & (near_columns >= 0) & (near_columns < image.shape[1])
    near_rows, near_columns = np.where(inside, near_rows, 0), np.where(inside, near_columns, 0)
    near_unknown = unknown[near_rows, near_columns] & inside
    number = np.zeros(unknown.shape, np.int32)
    number[unknown] = np.arange(count, dtype=np.int32)
    known = np.where(near_unknown | ~inside, 0.0, stencil * alpha[near_rows, near_columns])
    line = np.broadcast_to(np.arange(count, dtype=np.int32)[:, None], near_unknown.shape)
    matrix = coo_array(
        (stencil[near_unknown], (line[near_unknown], number[near_rows, near_columns][near_unknown])),
        shape=(count, count),
    ).tocsr()
    matrix.setdiag(matrix.diagonal() + pull)
    start = alpha[unknown]
    jacobi = coo_array((1 / matrix.diagonal(), (np.arange(count), np.arange(count))), shape=(count, count)).tocsr()
    solved, _ = cg(matrix, pull * start - known.sum(axis=1), x0=start, rtol=tolerance, maxiter=400, M=jacobi)
    alpha[unknown] = np.clip(solved, 0.0, 1.0)
    return alpha.astype(np.float32)


def _laplacian_rows(image: NDArray[np.float64], unknown: NDArray[np.bool_], epsilon: float) -> NDArray[np.float64]:
    """The matting Laplacian's rows of the unknown pixels, as 5 x 5 stencils, (unknown pixels, 25)."""
    rows, columns = unknown.shape
    touched = maximum_filter(unknown, size=3)[1:-1, 1:-1]
    window_rows, window_columns = np.nonzero(touched)
    views = sliding_window_view(image, (3, 3, 3))[:, :, 0]
    number = np.full((rows, columns), -1, np.int64)
    number[unknown] = np.arange(int(unknown.sum()))
    total = np.zeros(int(unknown.sum()) * _REACH * _REACH)
    cell = np.arange(_WINDOW)
    cell_row, cell_column = cell // 3, cell % 3
    offset = (cell_row[None, :] - cell_row[:, None] + 2) * _REACH + (cell_column[None, :] - cell_column[:, None] + 2)
    for first in range(0, len(window_rows), _CHUNK):
        top, left = window_rows[first : first + _CHUNK], window_columns[first : first + _CHUNK]
        colours = views[top, left].reshape(-1, _WINDOW, 3)
        centred = colours - colours.mean(axis=1, keepdims=True)
        covariance = centred.transpose(0, 2, 1) @ centred / _WINDOW + np.eye(3) * (epsilon / _WINDOW)
        affinity = (1 + centred @ _inverse(covariance) @ centred.transpose(0, 2, 1)) / _WINDOW
        pixel = number[top[:, None] + cell_row, left[:, None] + cell_column]
        owner, value = np.broadcast_to(pixel[:, :, None], affinity.shape), np.eye(_WINDOW) - affinity
        place = owner * (_REACH * _REACH) + offset
        mine = owner >= 0
        total += np.bincount(place[mine], weights=value[mine], minlength=len(total))
    return total.reshape(-1, _REACH * _REACH)


def _inverse(symmetric: NDArray[np.float64]) -> NDArray[np.float64]:
    """Inverses of many symmetric 3 x 3 matrices by their adjugates, several times faster than the general routine."""
    a, b, c = symmetric[:, 0], symmetric[:, 1], symmetric[:, 2]
    adjugate = np.stack([np.cross(b, c), np.cross(c, a), np.cross(a, b)], axis=1)
    determinant = np.sum(a * adjugate[:, 0], axis=1)
    return np.asarray(adjugate / determinant[:, None, None])
