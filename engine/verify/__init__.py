"""
The comparison of source and target.
"""
