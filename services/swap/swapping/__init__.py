"""A face from a network onto a picture's face: alignment, the swappers, masks, the paste, whose face goes where."""
