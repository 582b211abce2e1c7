"""
MySQL and MariaDB: settings, connections, types, identifiers and plain reads.
"""
