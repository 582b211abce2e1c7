"""
Other programs that do the engine's work, measured by the same harness on the same workloads.

A peer gets the source, the target and the workload that the engine was measured on, in the fastest
configuration that its makers document, and its result is checked by the same checksums. If a peer
cannot run, the results name it with the reason.

``peer.py`` is the interface of a peer, ``measure.py`` lists the peers and measures them, and each
peer has a module that sets it up. ``environments.py`` creates the virtual environments of Python
peers, ``mariadb.py`` starts the source of those that do not work with MySQL 9.7, and ``programs``
holds scripts that run as processes of their own, in an environment with a peer's packages.
"""
