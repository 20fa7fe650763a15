"""Who can reach a server, and what the embedded Triton is not for."""

from __future__ import annotations

import ipaddress
import socket

BEYOND_LOOPBACK = (
    "others can reach {host}, and one request of theirs can end this Triton 24.10, which is for laptops, CI and kind: "
    "serve them with NVIDIA's image (docs/kubernetes.md, On CPUs with NVIDIA's image)"
)


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches what listens on `host`, an address or a name of one."""
    try:
        found = {str(entry[4][0]) for entry in socket.getaddrinfo(host, None)}
    except OSError:
        return False
    return all(ipaddress.ip_address(address.partition("%")[0]).is_loopback for address in found)
