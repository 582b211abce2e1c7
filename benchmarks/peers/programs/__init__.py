"""
Scripts that run a peer. Each is a process of its own, in an environment with the peer's packages.

They are started by their path (``benchmarks.peers.environments.program``) and import nothing of
Tailrace, which a peer's environment does not have. This file makes the folder a package, so that
wheels include the scripts.
"""
