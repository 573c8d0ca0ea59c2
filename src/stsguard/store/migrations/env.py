"""What Alembic runs: the migrations, on the connection and inside the transaction of `store.upgrade`."""

from alembic import context

from stsguard.store.versions import VERSION_TABLE

# SQLite's DDL is transactional as long as the driver does not commit behind our back, which `sqlite.engine` sees to:
# killed in the middle, a migration has not happened.
context.configure(
    connection=context.config.attributes["connection"], version_table=VERSION_TABLE, transactional_ddl=True
)
with context.begin_transaction():
    context.run_migrations()
