"""Alembic's entry: runs the migrations on the connection that `storage.migrate` hands over."""

from alembic import context

from amplifier_app_api.storage.tables import metadata

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=metadata,
    # SQLite cannot alter most things in place; Alembic then copies the table.
    render_as_batch=True,
)
context.run_migrations()
