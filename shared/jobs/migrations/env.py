"""What Alembic runs for each command: the caller hands in a connection with its transaction and its lock."""

from alembic import context

from shared.jobs.tables import metadata

context.configure(connection=context.config.attributes["connection"], target_metadata=metadata)
context.run_migrations()
