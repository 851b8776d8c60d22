from __future__ import annotations

import ipaddress
import sys

import pytest

from unsandbox.sandbox.launcher.network.addresses import NOT_PUBLIC, is_public_address


@pytest.mark.parametrize(
    "address",
    [
        "0.0.0.0",
        "10.0.0.1",
        "10.255.255.255",
        "100.64.0.1",
        "100.100.100.200",
        "100.127.255.255",
        "127.0.0.1",
        "127.255.255.254",
        "168.63.129.16",
        "169.254.169.254",
        "172.16.0.1",
        "172.31.255.255",
        "192.0.0.192",
        "192.168.0.1",
        "198.19.255.255",
        "224.0.0.1",
        "239.255.255.255",
        "240.0.0.1",
        "255.255.255.255",
        "::",
        "::1",
        "::127.0.0.1",
        "::8.8.8.8",
        "::ffff:127.0.0.1",
        "::ffff:a9fe:a9fe",
        "64:ff9b::a00:1",
        "64:ff9b:1::1",
        "100::1",
        "2001::1",
        "2001:10::1",
        "2002:a00:1::1",
        "fc00::1",
        "fd00:ec2::254",
        "fe80::1",
        "fe80::1%eth0",
        "2606:4700::1111%1",
        "fec0::1",
        "ff02::1",
        # No addresses at all: what a lenient parser makes of them must not matter.
        "",
        "localhost",
        "127.1",
        "0177.0.0.1",
        "0x7f000001",
        "2130706433",
        "1.1.1.1 ",
        "1.1.1.1/32",
        "[2606:4700::1111]",
    ],
)
def test_not_public(address: str) -> None:
    assert not is_public_address(address)


@pytest.mark.parametrize(
    "address",
    [
        "1.1.1.1",
        "9.255.255.255",
        "11.0.0.0",
        "100.63.255.255",
        "100.128.0.0",
        "126.255.255.255",
        "128.0.0.1",
        "172.15.255.255",
        "172.32.0.0",
        "192.167.255.255",
        "192.169.0.0",
        "198.51.100.7",
        "203.0.113.7",
        "223.255.255.255",
        "::ffff:1.1.1.1",
        "2001:4860:4860::8888",
        "2001:db8::1",
        "2606:4700:4700::1111",
        "3fff:ffff::1",
    ],
)
def test_public(address: str) -> None:
    assert is_public_address(address)
    assert is_public_address(ipaddress.ip_address(address))


def test_nothing_that_the_standard_library_knows_as_private_passes() -> None:
    known = [
        *ipaddress._IPv4Constants._private_networks,  # type: ignore[attr-defined]  # noqa: SLF001 - the list itself
        *ipaddress._IPv6Constants._private_networks,  # type: ignore[attr-defined]  # noqa: SLF001 - the list itself
    ]
    documentation = {"192.0.2.0/24", "198.51.100.0/24", "203.0.113.0/24", "2001:db8::/32", "3fff::/20"}
    assert len(known) > 20, sys.version
    for network in known:
        if str(network) not in documentation:
            assert any(network.version == other.version and network.subnet_of(other) for other in NOT_PUBLIC), (
                network
            )
