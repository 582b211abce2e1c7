"""
The DDL dialect of MySQL and MariaDB: from a logged statement to its effects on tables. Pure.

``effects`` is the entry: ``apply_statement`` returns the schema changes and truncations of one
statement. The text passes through these modules:

- ``tokens`` and ``dialect``: the tokenizer; the SQL mode and server family that affect the meaning.
- ``statements``: the statement's kind and the tables that it names.
- ``outcome``: what a statement that failed has done nevertheless.
- ``clauses``, ``columns``, ``keys`` and ``defaults``: the clauses of ALTER TABLE, the definitions
  of columns and indexes, and default values in their stored form.
- ``alter`` and ``draft``: the next version of the table.
- ``loss``: whether a change of type keeps every value.
- ``stored_programs``: what a statement changes through views, triggers and functions of a server.
- ``definitions``, ``objects``, ``functions`` and ``script``: what statements and schema dumps say
  about tables, views, triggers and functions, for a log without a server.

A statement that touches a followed table is applied exactly, or it stops the pipeline.
"""
