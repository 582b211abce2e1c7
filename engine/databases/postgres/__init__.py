"""
PostgreSQL: connection settings, driver errors, types, identifiers and plain reads.
"""
