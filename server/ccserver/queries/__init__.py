"""All SQL, a module per table. A query takes a scope first, runs one literal statement and names its columns."""
