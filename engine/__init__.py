"""
The engine: it applies changes from any source to any sink, in order.

``errors``, ``schema``, ``change``, ``checkpoint`` and ``contract`` are the vocabulary, which every
module may import. A source or sink implements the protocols of ``contract``. ``pipeline`` connects
them; ``cli.wiring`` chooses them by the configuration. docs/architecture.md has the whole map.
"""
