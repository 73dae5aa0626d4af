import pytest

from amplifier_app_api.modules.tools.addresses import AddressBook, resolve
from amplifier_app_api.modules.tools.refusals import Refused
from web_double import Names

PRIVATE = (
    "127.0.0.1", "10.1.2.3", "172.16.0.1", "192.168.1.1", "100.64.0.1", "::1", "fd00::1", "fec0::1", "::ffff:10.0.0.1",
    "64:ff9b::7f00:1", "64:ff9b:1::a00:1", "::ffff:0:127.0.0.1", "2002:7f00:1::", "198.18.0.1",
)  # fmt: skip
NEVER = (
    "169.254.169.254", "fe80::1%eth0", "0.0.0.0", "::", "224.0.0.1", "ff02::1", "::ffff:169.254.169.254", "no",
    "64:ff9b:1:a9fe:a9:fe00:5db8:d822", "::ffff:0:169.254.169.254",
)  # fmt: skip


@pytest.mark.parametrize("address", ["93.184.216.34", "2606:2800:220:1::1", "::ffff:93.184.216.34"])
async def test_public_addresses_are_dialled(address: str) -> None:
    assert await AddressBook(resolver=Names(a_test=[address])).lookup("a.test", 443) == [address]


@pytest.mark.parametrize("address", PRIVATE)
async def test_private_addresses_are_dialled_where_they_are_allowed(address: str) -> None:
    names = Names(a_test=[address])

    assert await AddressBook(private_addresses=True, resolver=names).lookup("a.test", 80) == [address]
    with pytest.raises(Refused, match="an address that is not public"):
        await AddressBook(resolver=names).lookup("a.test", 80)


@pytest.mark.parametrize("address", NEVER)
async def test_some_addresses_are_never_dialled(address: str) -> None:
    with pytest.raises(Refused, match="an address that is not public"):
        await AddressBook(private_addresses=True, resolver=Names(a_test=[address])).lookup("a.test", 80)


async def test_one_address_that_is_not_public_spoils_the_others() -> None:
    names = Names(a_test=[["93.184.216.34", "127.0.0.1"]])

    with pytest.raises(Refused, match="an address that is not public"):
        await AddressBook(resolver=names).lookup("a.test", 80)


async def test_a_host_that_is_not_known_is_told() -> None:
    with pytest.raises(Refused, match=r"The host b\.test is not known"):
        await AddressBook(resolver=Names()).lookup("b.test", 80)


@pytest.mark.parametrize("host", ["127.1", "2130706433", "0x7f000001", "0177.0.0.1", "localhost"])
async def test_spellings_of_this_machine_are_this_machine(host: str) -> None:
    with pytest.raises(Refused, match="an address that is not public"):
        await AddressBook(resolver=resolve).lookup(host, 80)
