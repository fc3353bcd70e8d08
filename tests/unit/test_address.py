"""Which addresses a worker may dial."""

from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from worker.core.address import AddressRules, format_ports, parse_networks, parse_ports

DENIED_V4 = [
    "0.0.0.0/8", "10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "169.254.0.0/16", "172.16.0.0/12", "192.0.0.0/24",
    "192.0.2.0/24",
    "192.88.99.0/24", "192.168.0.0/16", "198.18.0.0/15", "198.51.100.0/24", "203.0.113.0/24", "224.0.0.0/4", "240.0.0.0/4",
    "168.63.129.16/32",
]  # fmt: skip
DENIED_V6 = ["2001::/23", "2001:db8::/32", "2002::/16", "3fff::/20"]

fuzz = settings(deadline=None, max_examples=40)


def denied_v4(address: IPv4Address) -> bool:
    return any(address in IPv4Network(text) for text in DENIED_V4)


@pytest.mark.fault(11)
@pytest.mark.parametrize("text", DENIED_V4)
def test_edges_v4(text: str) -> None:
    """Both edges of every denied range are denied, and one step outside is judged for itself."""
    network = IPv4Network(text)
    first, last = network.network_address, network.broadcast_address
    assert (text, text) == (AddressRules().judge(str(first)), AddressRules().judge(str(last)))
    for number in (int(first) - 1, int(last) + 1):
        if 0 <= number < 2**32:
            outside = IPv4Address(number)
            assert denied_v4(outside) == (AddressRules().judge(str(outside)) is not None)


@pytest.mark.fault(11)
@pytest.mark.parametrize("text", DENIED_V4)
def test_edges_mapped(text: str) -> None:
    """A mapped address reaches the IPv4 address inside, so it is judged as that."""
    network = IPv4Network(text)
    assert text == AddressRules().judge(f"::ffff:{network.network_address}")
    assert text == AddressRules().judge(f"::ffff:{network.broadcast_address}")


@pytest.mark.fault(11)
@pytest.mark.parametrize("text", DENIED_V6)
def test_edges_v6(text: str) -> None:
    """Both edges of every denied IPv6 range are denied; one step outside, in 2000::/3, is allowed."""
    network = IPv6Network(text)
    first, last = network.network_address, network.broadcast_address
    assert (text, text) == (AddressRules().judge(str(first)), AddressRules().judge(str(last)))
    outside = [IPv6Address(int(first) - 1), IPv6Address(int(last) + 1)]
    expected = [None if address in IPv6Network("2000::/3") else "outside 2000::/3" for address in outside]
    assert expected == [AddressRules().judge(str(address)) for address in outside]


@pytest.mark.fault(11)
@pytest.mark.parametrize(
    "address",
    [
        "::",
        "::1",
        "::7f00:1",
        "::ffff:0:7f00:1",
        "64:ff9b::7f00:1",
        "64:ff9b::808:808",
        "64:ff9b:1::1",
        "100::1",
        "1fff:ffff::",
        "1fff:ffff:ffff:ffff:ffff:ffff:ffff:ffff",
        "4000::",
        "5f00::1",
        "fc00::1",
        "fd00:ec2::254",
        "fe80::1",
        "fec0::1",
        "ff02::1",
        "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff",
        "2002:7f00:1::1",
    ],
)
def test_outside_global_unicast(address: str) -> None:
    """IPv6 is allowed only inside 2000::/3, whatever Python calls global."""
    assert AddressRules().judge(address) is not None


@pytest.mark.fault(11)
@pytest.mark.parametrize(
    "address", ["169.254.169.254", "127.0.0.1", "255.255.255.255", "168.63.129.16", "224.0.0.1", "0.0.0.0"]
)
def test_well_known(address: str) -> None:
    """Metadata services, loopback, broadcast and multicast are denied."""
    assert AddressRules().judge(address) is not None


@pytest.mark.fault(12)
@pytest.mark.parametrize(
    "address",
    [
        "::ffff:8.8.8.8",
        "8.8.8.8",
        "1.0.0.0",
        "168.63.129.15",
        "168.63.129.17",
        "2606:4700::1",
        "2001:200::",
        "2000::",
        "3ffe::1",
    ],
)
def test_public(address: str) -> None:
    """Public addresses are allowed, mapped ones too."""
    assert AddressRules().judge(address) is None


@pytest.mark.parametrize("address", ["fe80::1%eth0", "2606:4700::1%1", "::1%lo"])
def test_zone_id(address: str) -> None:
    """A zone id is denied, even inside an allowed network."""
    assert "an IPv6 zone id" == AddressRules(allow=parse_networks("::/0")).judge(address)


@pytest.mark.parametrize("address", ["", "localhost", "127.1", "1.2.3.04", "2130706433", "1.2.3.4/32", "::1/128"])
def test_no_address(address: str) -> None:
    """What is no address raises ValueError."""
    with pytest.raises(ValueError, match="address"):
        AddressRules().judge(address)


def test_allowed_networks() -> None:
    """Allowed networks are exceptions to the rules, for mapped addresses too, and for nothing else."""
    rules = AddressRules(allow=parse_networks("127.0.0.0/8, 10.1.0.0/16 ::1/128"))
    assert [None, None, None, None] == [
        rules.judge(address) for address in ("127.0.0.1", "::ffff:127.0.0.1", "10.1.255.255", "::1")
    ]
    assert [True, True, True] == [rules.judge(address) is not None for address in ("10.2.0.0", "::2", "192.168.0.1")]


def test_denied_networks_have_the_last_word() -> None:
    """What is denied besides stays denied, public or allowed, mapped or not; and the rule says which it was."""
    rules = AddressRules(allow=parse_networks("10.0.0.0/8"), deny=parse_networks("8.8.0.0/16 10.1.0.0/16 2606:4700::/32"))
    for address, rule in {
        "8.8.8.8": "8.8.0.0/16", "::ffff:8.8.8.8": "8.8.0.0/16", "10.1.0.1": "10.1.0.0/16", "2606:4700::1": "2606:4700::/32",
    }.items():  # fmt: skip
        assert f"--deny-network {rule}" == rules.judge(address)
    assert [None, None] == [rules.judge("10.2.0.1"), rules.judge("9.9.9.9")]


@pytest.mark.parametrize("port", [22, 25, 110, 143, 465, 587, 6000, 6667])
def test_ports_of_other_protocols_are_denied(port: int) -> None:
    """Mail, ssh, X11, IRC: what listens there might take a POST for commands."""
    assert AddressRules().judge_port(port) is not None
    assert AddressRules(ports=parse_ports("any")).judge_port(port) is None


def test_any_other_port_is_allowed() -> None:
    """Receivers live on odd ports; with a list, on those of the list only."""
    assert [None] * 5 == [AddressRules().judge_port(port) for port in (80, 443, 3000, 8443, 65535)]
    some = AddressRules(ports=parse_ports("443, 8000-8002 25"))
    tried = (442, 443, 7999, 8000, 8001, 8002, 8003, 25, 80)
    assert [443, 8000, 8001, 8002, 25] == [port for port in tried if some.judge_port(port) is None]
    assert "--allow-port 443 8000-8002 25" == some.judge_port(80)


@pytest.mark.parametrize("text", ["0", "65536", "80-79", "http", "-80", "80-", "٣", "1-2-3", "443;80"])
def test_bad_ports(text: str) -> None:
    """What is no port is named."""
    with pytest.raises(ValueError, match=f"'{text}' is no port"):
        parse_ports(f"443,{text}")


def test_ports_are_written_as_they_are_read() -> None:
    """For messages."""
    assert "1-65535" == format_ports(parse_ports("any"))
    assert () == parse_ports(" , ")


@pytest.mark.parametrize("text", ["10.0.0.1/8", "10.0.0.0/33", "localhost", "10.0.0.0/8;::1"])
def test_bad_network(text: str) -> None:
    """A wrong CIDR is named in the error."""
    with pytest.raises(ValueError, match=text):
        parse_networks(f"::1/128,{text}")


def test_no_networks() -> None:
    """An empty setting allows nothing more."""
    assert () == parse_networks(" , ")


@pytest.mark.fault(11)
@pytest.mark.fault(12)
@fuzz
@given(st.ip_addresses(v=4))
def test_v4_plain_and_mapped_agree(address: IPv4Address) -> None:
    """An IPv4 address is judged by the table, and alike in its mapped form."""
    assert denied_v4(address) == (AddressRules().judge(str(address)) is not None)
    assert AddressRules().judge(str(address)) == AddressRules().judge(f"::ffff:{address}")


@fuzz
@given(st.text(max_size=20))
def test_only_value_errors(text: str) -> None:
    """Text is judged only if it is an address; else ValueError, nothing else."""
    try:
        ip_address(text)
    except ValueError:
        with pytest.raises(ValueError, match=r".*"):
            AddressRules().judge(text)
