"""
PostgreSQL: settings, connections, types, identifiers and plain reads.
"""
