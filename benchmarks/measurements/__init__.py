"""
The measurements of ``tailrace bench``: decode, stream, snapshot, latency and profile.

``bench.py`` holds what they share. ``stream.py`` (streams and the snapshot), ``decode.py``,
``latency.py`` and ``profile.py`` have the functions that ``suite.py`` calls; each returns a
``Result``. They start ``decode_process.py``, ``latency_writer.py`` and ``profile_process.py`` as
processes of their own.
"""
