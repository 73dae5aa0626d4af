"""A zip archive to a folder, its directory measured before it is believed."""

import stat
import struct
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from amplifier_app_api.bundles.values import quoted

from .limits import FetchLimits, Patience, failed
from .tree import TreeWriter, checked_name

_END = struct.Struct("<4s4H2LH")
_END_MARK, _END64_MARK = b"PK\x05\x06", b"PK\x06\x07"
_LONGEST_COMMENT = 2**16
_ENTRY_BYTES = 512
_SMALL = 2**16
_ENCRYPTED = 0x1
_CHUNK = 2**16


def unpack(archive: Path, tree: Path, limits: FetchLimits, patience: Patience) -> TreeWriter:
    """Every file of an archive, written to the empty folder `tree`. Links and devices are refused."""
    with archive.open("rb") as file:
        _check_directory(file, limits)
        try:
            with zipfile.ZipFile(file) as opened:
                return _unpack(opened, archive.stat().st_size, tree, limits, patience)
        except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, struct.error, ValueError) as error:
            raise failed(f"The archive is damaged: {error}.") from None


def _unpack(
    opened: zipfile.ZipFile, archive_bytes: int, tree: Path, limits: FetchLimits, patience: Patience
) -> TreeWriter:
    members = [member for member in opened.infolist() if not member.is_dir()]
    if len(members) > limits.files:
        raise failed(f"The archive has more than {limits.files} files.")
    for member in members:
        _check_member(member, limits)
    if sum(member.file_size for member in members) > limits.tree_bytes:
        raise failed(f"The archive holds more than {limits.tree_bytes} bytes.")
    if sum(member.compress_size for member in members) > archive_bytes:
        raise failed("The archive's members lie over each other.")
    writer = TreeWriter(tree, limits, patience)
    for member in members:
        with opened.open(member) as content:
            writer.file(member.filename, _chunks(content), executable=bool(_mode(member) & stat.S_IXUSR))
    writer.close()
    return writer


def _check_directory(file: IO[bytes], limits: FetchLimits) -> None:
    """The library reads the whole list of members at once, so its size is looked at first."""
    size = file.seek(0, 2)
    file.seek(max(0, size - _END.size - _LONGEST_COMMENT))
    tail = file.read()
    start = tail.rfind(_END_MARK)
    if start < 0 or len(tail) - start < _END.size:
        raise failed("The file is no zip archive.")
    *_, directory_bytes, _, _ = _END.unpack_from(tail, start)
    if tail[max(0, start - 20) : start].startswith(_END64_MARK):
        raise failed("The archive is of the 64-bit kind, for which it is too small.")
    if directory_bytes > limits.files * _ENTRY_BYTES:
        raise failed(f"The archive has more than {limits.files} files.")


def _check_member(member: zipfile.ZipInfo, limits: FetchLimits) -> None:
    name = quoted(member.filename)
    checked_name(member.filename)
    if "\\" in member.orig_filename or "\0" in member.orig_filename:
        raise failed(f"The archive has a file with an impossible name: {quoted(member.orig_filename)}.")
    if stat.S_IFMT(_mode(member)) not in (0, stat.S_IFREG):
        raise failed(f"{name} in the archive is neither a file nor a folder.")
    if member.flag_bits & _ENCRYPTED:
        raise failed(f"{name} in the archive is encrypted.")
    if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise failed(f"{name} in the archive is compressed in an unusual way.")
    if member.file_size > limits.file_bytes:
        raise failed(f"{name} in the archive is larger than {limits.file_bytes} bytes.")
    if member.file_size > _SMALL and member.file_size > limits.expansion * member.compress_size:
        raise failed(f"{name} in the archive grows more than {limits.expansion} times.")


def _mode(member: zipfile.ZipInfo) -> int:
    """The mode of a file from Unix; 0 when the archive has none."""
    return member.external_attr >> 16


def _chunks(content: IO[bytes]) -> Iterator[bytes]:
    while chunk := content.read(_CHUNK):
        yield chunk
