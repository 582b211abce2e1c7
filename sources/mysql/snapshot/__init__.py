"""
Tables read in chunks.
"""
