"""
The configuration.

    loader      the TOML file → structs, with errors that name line and key
    secrets     placeholders for passwords, and their redaction from messages
    reference   where the reference configuration is
    registry    the scheme of a URL → the class of its source or sink
"""
