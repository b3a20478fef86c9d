"""PuLID: holds a person's identity through FLUX by cross-attention to an encoding of their face."""
