"""The database: SQLite or PostgreSQL.

`stores` is what the rest of the program uses. The tables of the sending side speak SQL to the driver (`connection`),
those of the receiving side go through SQLAlchemy Core (`alchemy`), which is loaded when one of them is used.
`schema` is what the tables are, `migrations` how they became so, `database` opens one or refuses it with a reason.
"""
