"""
Where a host is.
"""

from __future__ import annotations

from ipaddress import ip_address

__all__ = ["is_local"]


def is_local(host: str) -> bool:
    """Whether a connection to ``host`` does not leave this machine: a loopback address, the path of
    a Unix socket, or no host.
    """
    if not host or host.startswith(("/", "@")) or host == "localhost":
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False
