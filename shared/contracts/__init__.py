"""The vocabulary of the product as pydantic models. Strict, versioned, no I/O, imports nothing of ours."""
