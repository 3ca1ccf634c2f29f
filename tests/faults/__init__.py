"""Everything that can break, broken: each module is a row of the table in `__main__`."""
