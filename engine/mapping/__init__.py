"""
Mapping: what tables, columns and rows become on their way from the source to the target.

``TableMapping`` (``table``) is compiled for one version of one source table, from its rules in the
configuration. It has the target's ``Table`` and a generated function from rows to rows. ``Mapping``
(``changes``) applies the mappings of a pipeline to changes. ``MappedReader`` (``reader``) gives a
comparison the source's rows as they are on the target. Expressions are SQL in the source's dialect
(``expressions``, ``functions``), and mean what they mean on the source.
"""
