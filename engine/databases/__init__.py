"""
Code that a source and a sink of the same database share, one package a database.
"""
