"""
The binary log as changes.
"""
