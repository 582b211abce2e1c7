"""
Row images of the binary log as row tuples.
"""
