"""
The pipeline: from a source to a sink.
"""
