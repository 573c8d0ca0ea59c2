"""The database: SQLite or PostgreSQL through SQLAlchemy Core.

`policies` (and later families) is what the rest of the program uses; it imports SQLAlchemy only when it is opened.
`schema` is what the tables are, `migrations` how they became so, `database` opens one or refuses it with a reason.
"""
