"""
The cutover: the source is frozen, the target is proven equal and made ready, and the applications
are switched to it. docs/cutover.md is its guide.
"""
