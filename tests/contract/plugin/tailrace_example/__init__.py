"""
A source and a sink for Tailrace in a package of their own.
"""
