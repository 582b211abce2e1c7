"""
The row codec: row images of the binary log become row tuples.

The modules:

- ``table_map`` parses the TABLE_MAP event that precedes the rows.
- ``table_match`` checks that a tracked table version fits the map, or makes the table from the map.
- ``cells`` decides for each column how its value is stored and which expression reads it. A new
  column type starts here.
- ``values``, ``temporal`` and ``binary_json`` make the expressions and functions for numbers and
  labels, dates and times, and JSON documents. ``defaults`` makes the values of columns that a
  partial row image omits.
- ``images`` writes the Python code that reads one row image from its cells.
- ``rows`` assembles the code into one decoder per operation, compiles it and calls it. Its
  docstring shows a generated decoder.
- ``accelerator`` makes programs for ``_accelerator.c``, the optional C codec, from the same cells.
  The C codec decodes first. What it refuses, the generated Python decodes again, which defines what
  is valid.
"""
