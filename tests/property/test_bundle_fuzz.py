"""Some seconds of the fuzzer; `python tests/property/fuzz.py` runs it for as long as one likes."""

from pathlib import Path

import pytest

from property import fuzz


@pytest.mark.parametrize("seed", range(4))
def test_no_document_source_or_mention_breaks_a_reader(seed: int, tmp_path: Path) -> None:
    fuzzer = fuzz.Fuzzer(tmp_path.resolve(), seed)

    ran = {fuzzer.round(number) for number in range(150)}

    assert ran == {check.__name__ for check in fuzz.CHECKS}


def test_what_is_found_says_how_to_repeat_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(fuzzer: fuzz.Fuzzer, chance: object) -> None:
        raise KeyError("escaped")

    monkeypatch.setattr(fuzz, "CHECKS", (broken,))

    with pytest.raises(fuzz.Broken, match=r"--seed 3 --round 7 \(broken\): KeyError\('escaped'\)"):
        fuzz.Fuzzer(tmp_path.resolve(), 3).round(7)
