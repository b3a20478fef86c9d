"""Alembic's folder: one module per revision under versions/, never changed once released."""
