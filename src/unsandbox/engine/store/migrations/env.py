"""Runs the migrations on the connection that `open_database` hands over."""

from alembic import context

from unsandbox.engine.store.schema import metadata

context.configure(connection=context.config.attributes["connection"], target_metadata=metadata)
context.run_migrations()
