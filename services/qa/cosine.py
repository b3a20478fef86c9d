"""From the cosine of two faces' embeddings to how alike they are."""

import numpy as np

from shared.contracts.verdict import SAME_PERSON


def likeness(cosine: float, same_person: float) -> float:
    """How alike two faces are, 0 to 1: straight from (0, 0) to (same_person, 0.60), and from there to (1, 1).

    Strangers' embeddings stand at right angles on the mean, which is no likeness; what points away is none either.

    Args:
        cosine: -1 to 1.
        same_person: the cosine at which the encoder says: the same person; above 0, below 1.
    """
    return float(np.interp(cosine, (0.0, same_person, 1.0), (0.0, SAME_PERSON, 1.0)))
