"""Which addresses may be dialled."""

import threading
import time

import pytest

from amplifier_app_api.bundles.fetched import Unresolved
from amplifier_app_api.bundles.sources.addresses import AddressBook, resolve
from amplifier_app_api.bundles.sources.limits import Patience

NEVER = ["224.0.0.1", "0.0.0.0", "169.254.169.254", "::", "fe80::1", "ff02::1", "::ffff:169.254.169.254", "nonsense"]
PRIVATE = ["127.0.0.1", "10.1.2.3", "172.16.0.1", "192.168.1.1", "100.64.0.1", "::1", "fd00::1", "::ffff:10.0.0.1"]
PRIVATE += ["2002:7f00:1::", "64:ff9b::a00:1", "192.0.2.1", "198.18.0.1", "240.0.0.1"]
PUBLIC = ["93.184.215.14", "2606:2800:21f:cb07:6820:80da:af6b:8b2c", "64:ff9b::5db8:d70e"]


def patience(seconds: float = 30) -> Patience:
    return Patience(time.monotonic() + seconds)


def book(*addresses: str, private_addresses: bool = False) -> AddressBook:
    return AddressBook(private_addresses=private_addresses, resolver=lambda host, port: list(addresses))


@pytest.mark.parametrize("address", PUBLIC)
def test_public_addresses_are_dialled(address: str) -> None:
    assert book(address).lookup("example.com", 443, patience()) == [address]


@pytest.mark.parametrize("address", [*PRIVATE, *NEVER])
def test_others_are_not(address: str) -> None:
    with pytest.raises(Unresolved) as caught:
        book(address).lookup("example.com", 443, patience())

    assert caught.value.code == "source_not_allowed"


def test_one_private_address_among_public_ones_is_enough() -> None:
    with pytest.raises(Unresolved):
        book(PUBLIC[0], "10.0.0.1").lookup("example.com", 443, patience())


@pytest.mark.parametrize("address", PRIVATE)
def test_private_addresses_can_be_allowed(address: str) -> None:
    assert book(address, private_addresses=True).lookup("example.com", 443, patience()) == [address]


@pytest.mark.parametrize("address", NEVER)
def test_some_are_never_dialled(address: str) -> None:
    with pytest.raises(Unresolved):
        book(address, private_addresses=True).lookup("example.com", 443, patience())


@pytest.mark.parametrize("host", ["2130706433", "0x7f.1", "127.1", "017700000001", "[::1]", "localhost"])
def test_other_spellings_of_this_machine_are_found_out(host: str) -> None:
    with pytest.raises(Unresolved):
        AddressBook().lookup(host, 443, patience())


def test_a_host_that_is_not_known_is_an_error() -> None:
    def nobody(host: str, port: int) -> list[str]:
        raise OSError("no such host")

    for resolver in (nobody, lambda host, port: []):
        with pytest.raises(Unresolved) as caught:
            AddressBook(resolver=resolver).lookup("nowhere.test", 443, patience())
        assert caught.value.code == "module_fetch_failed"


def test_a_name_server_that_does_not_answer_is_not_waited_for() -> None:
    answer = threading.Event()

    def silent(host: str, port: int) -> list[str]:
        answer.wait(30)
        return []

    with pytest.raises(Unresolved, match="not resolved in time"):
        AddressBook(resolver=silent).lookup("example.com", 443, patience(0.05))
    answer.set()


def test_this_machine_is_resolved_by_its_own_resolver() -> None:
    assert "127.0.0.1" in resolve("127.0.0.1", 443)
