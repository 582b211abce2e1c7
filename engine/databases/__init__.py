"""
What a source and a sink of the same database share.
"""
