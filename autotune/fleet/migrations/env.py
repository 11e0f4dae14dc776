"""What Alembic runs: the steps, over the connection that `autotune.fleet.migrate` hands it."""

from __future__ import annotations

from alembic import context

from autotune.fleet.schema import SCHEMA, metadata

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=metadata,
    version_table_schema=SCHEMA,
    include_schemas=True,
)
with context.begin_transaction():
    context.run_migrations()
