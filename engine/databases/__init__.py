"""
What a source and a sink of one database share.
"""
