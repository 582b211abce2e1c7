"""
The comparison of source and target: ``comparison`` reads and compares the tables, ``recheck``
decides about candidate differences, ``report`` holds the result.
"""
