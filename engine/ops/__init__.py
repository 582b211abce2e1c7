"""
What an operator sees: status, metrics, HTTP, log and terminal.
"""
