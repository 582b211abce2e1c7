"""
The configuration file and its parts.
"""
