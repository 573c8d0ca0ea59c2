"""Alembic's directory: one module a revision below `versions`, in the order of `store.versions.MIGRATIONS`."""
