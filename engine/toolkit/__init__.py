"""
What sources and sinks are made of.
"""
