"""The sealed box."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from amplifier_app_api.core.encryption import CannotUnseal, SecretBox, UnusableKey

KEY = bytes(range(32))
ROW = "sessions/1/variables"


@pytest.mark.parametrize("plaintext", ["", "sk-ant-123", "ü\n😀\0", "x" * 100_000])
def test_what_was_sealed_opens_for_the_same_row(plaintext: str) -> None:
    sealed = SecretBox(KEY).seal(plaintext, row=ROW)

    assert sealed.isascii()
    assert SecretBox(KEY).open(sealed, row=ROW) == plaintext


def test_a_sealed_text_says_its_version_and_key_and_nothing_of_the_secret() -> None:
    box = SecretBox(KEY)
    first, second = box.seal("secret", row=ROW), box.seal("secret", row=ROW)

    assert first.startswith(f"sealed.1.{box.key_id}.")
    assert first != second
    assert "secret" not in first


def test_it_does_not_open_for_another_row() -> None:
    box = SecretBox(KEY)
    with pytest.raises(CannotUnseal, match="another row"):
        box.open(box.seal("secret", row=ROW), row="sessions/2/variables")


def test_it_does_not_open_with_another_key() -> None:
    with pytest.raises(CannotUnseal, match="another key"):
        SecretBox(bytes(32)).open(SecretBox(KEY).seal("secret", row=ROW), row=ROW)


def test_no_changed_character_goes_unnoticed() -> None:
    box = SecretBox(KEY)
    sealed = box.seal("secret", row=ROW)
    for place, character in enumerate(sealed):
        for other in "Ax.=":
            if other != character:
                with pytest.raises(CannotUnseal):
                    box.open(sealed[:place] + other + sealed[place + 1 :], row=ROW)


@pytest.mark.parametrize("text", ["", "secret", "sealed.1.", "sealed.1.x.y", "sealed.2.aaaaaaaa.AAAA"])
def test_what_is_not_sealed_does_not_open(text: str) -> None:
    with pytest.raises(CannotUnseal):
        SecretBox(KEY).open(text, row=ROW)


@pytest.mark.parametrize("body", ["", "AAAA", "é", "A", "=" * 40])
def test_a_sealed_text_that_was_cut_does_not_open(body: str) -> None:
    box = SecretBox(KEY)
    with pytest.raises(CannotUnseal):
        box.open(f"sealed.1.{box.key_id}.{body}", row=ROW)


def test_the_key_shows_nowhere() -> None:
    box = SecretBox(KEY)
    assert repr(box) == f"SecretBox(key_id='{box.key_id}')"
    assert KEY.hex()[:8] != box.key_id


@pytest.mark.parametrize("length", [0, 16, 31, 33])
def test_a_key_of_another_length_is_refused(length: int) -> None:
    with pytest.raises(UnusableKey):
        SecretBox(bytes(length))


def test_the_key_file_is_made_once_for_the_owner_alone(tmp_path: Path) -> None:
    path = tmp_path / "data" / "secret.key"
    sealed = SecretBox.open_or_create(path).seal("secret", row=ROW)

    assert path.stat().st_mode & 0o777 == 0o600
    assert path.parent.stat().st_mode & 0o777 == 0o700
    assert len(path.read_bytes()) == 32
    assert [entry.name for entry in path.parent.iterdir()] == ["secret.key"]
    assert SecretBox.open_or_create(path).open(sealed, row=ROW) == "secret"


def test_of_many_who_make_the_key_all_use_the_same(tmp_path: Path) -> None:
    for attempt in range(20):
        path = tmp_path / str(attempt) / "secret.key"
        with ThreadPoolExecutor(8) as threads:
            boxes = list(threads.map(lambda path: SecretBox.open_or_create(path), [path] * 8))
        assert len({box.key_id for box in boxes}) == 1
        assert [entry.name for entry in path.parent.iterdir()] == ["secret.key"]


def test_a_damaged_key_file_is_refused_and_kept(tmp_path: Path) -> None:
    path = tmp_path / "secret.key"
    path.write_bytes(b"short")

    with pytest.raises(UnusableKey, match="must hold exactly 32 bytes, it holds 5"):
        SecretBox.open_or_create(path)
    assert path.read_bytes() == b"short"


def test_a_key_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    (tmp_path / "secret.key").mkdir()
    with pytest.raises(UnusableKey, match=r"secret\.key cannot be used: Is a directory"):
        SecretBox.open_or_create(tmp_path / "secret.key")
