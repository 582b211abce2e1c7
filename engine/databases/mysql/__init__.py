"""
MySQL and MariaDB: connection settings, connections, types, identifiers and plain reads.
"""
