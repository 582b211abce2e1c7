"""
The PostgreSQL sink: changes applied set by set, exactly once.

Its one idea: rows, schema, position and epoch are written in one transaction of the target, so what
the target shows and what it says about itself cannot differ. ``writer`` is the way in.
"""
