"""Distinguishes addresses of the public internet from those of private networks.

One list for all destinations that others choose: those of sandboxes, and those of URLs that the server
fetches for a client. The launcher, a bare interpreter, loads this module too: standard library only.
"""

from __future__ import annotations

from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network

NOT_PUBLIC: tuple[Network, ...] = tuple(
    ip_network(text)
    for text in (
        "0.0.0.0/8",  # "this network"; a connection to 0.0.0.0 reaches the machine itself
        "10.0.0.0/8",  # private
        "100.64.0.0/10",  # shared by the customers of one provider; metadata at Alibaba
        "127.0.0.0/8",  # loopback
        "168.63.129.16/32",  # not special by its number, but the host of every machine at Azure
        "169.254.0.0/16",  # link-local; metadata of most clouds
        "172.16.0.0/12",  # private
        "192.0.0.0/24",  # protocol assignments; metadata at Oracle
        "192.88.99.0/24",  # relays of 6to4
        "192.168.0.0/16",  # private
        "198.18.0.0/15",  # benchmarks, in practice private
        "224.0.0.0/4",  # multicast
        "240.0.0.0/4",  # reserved, broadcast
        # Of IPv6 only 2000::/3 is given out. What lies outside: loopback, IPv4 in every wrapping (mapped,
        # compatible, NAT64), unique local, link-local, site-local, multicast.
        "::/3",
        "4000::/2",
        "8000::/1",
        "2001::/23",  # protocol assignments; Teredo, which wraps IPv4
        "2002::/16",  # 6to4, which wraps IPv4
    )
)
"""Networks that are not the public internet. The ranges for documentation (192.0.2.0/24, 198.51.100.0/24,
203.0.113.0/24, 2001:db8::/32) are not among them: no network has them, so tests can stand on them."""


def is_public_address(address: str | Address) -> bool:
    """Tell whether an address belongs to the public internet, by its number alone.

    For whoever connects to where a client wishes: resolve the name once, check *every* address with this,
    connect to the checked address and not to the name again, and do so anew after each redirect. This machine
    and its neighbours may have public addresses too; those this function cannot know.

    Args:
        address: An IPv4 or IPv6 address, as text or parsed. IPv4 mapped into IPv6 counts as the IPv4 address
            that a connection to it reaches.

    Returns:
        False also for a text that is no address, in particular the short and octal forms (`127.1`) that some
        resolvers accept, and for an address with a zone (`fe80::1%eth0`).

    Example:
        >>> is_public_address("192.168.1.1"), is_public_address("::ffff:10.0.0.1"), is_public_address("1.1.1.1")
        (False, False, True)
    """
    if isinstance(address, str):
        try:
            address = ip_address(address)
        except ValueError:
            return False
    if isinstance(address, IPv6Address):
        if address.scope_id is not None:
            return False
        address = address.ipv4_mapped or address
    return not any(address in network for network in NOT_PUBLIC)
