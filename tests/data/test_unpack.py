"""Archives as published, damaged ones and hostile ones."""

from __future__ import annotations

import gzip
import io
import os
import stat
import struct
import tarfile
import zipfile

import numpy as np
import pytest

from rtn_jax.data.unpack import _Bounded, unpack

FILES = {"set/a.txt": b"first", "set/deep/b(M).bin": np.random.default_rng(0).bytes(300_000), "set/empty": b""}
KINDS = ("zip", "tar", "tar.gz")
LIMIT = 1_000_000


def write_zip(path, files, method=zipfile.ZIP_DEFLATED):
    with zipfile.ZipFile(path, "w", method) as archive:
        for name, content in files.items():
            archive.writestr(name if isinstance(name, zipfile.ZipInfo) else zipfile.ZipInfo(name), content, method)


def write_tar(path, files, mode="w"):
    with tarfile.open(path, mode) as archive:
        for name, content in files.items():
            member = name if isinstance(name, tarfile.TarInfo) else tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))


def write(path, kind, files):
    if kind == "zip":
        write_zip(path, files)
    else:
        write_tar(path, files, "w:gz" if kind == "tar.gz" else "w")
    return path


def content_of(folder):
    return {
        str(path.relative_to(folder.parent)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()
    }


def refused(path, folder, words, **options):
    """That unpacking fails with one line that names the archive, and leaves nothing behind."""
    with pytest.raises(ValueError, match=words) as error:
        unpack(path, folder, **{"top": "set", "limit": LIMIT, **options})
    assert str(error.value).startswith(f"{path}: ")
    assert "\n" not in str(error.value)
    assert not folder.exists() or os.listdir(folder) == []


@pytest.mark.parametrize("kind", KINDS)
def test_an_archive_is_unpacked_whatever_its_name(kind, tmp_path):
    path = write(tmp_path / "archive", kind, FILES)
    assert unpack(path, tmp_path / "out", top="set", limit=LIMIT) == tmp_path / "out" / "set"
    assert content_of(tmp_path / "out" / "set") == FILES
    assert os.listdir(tmp_path / "out") == ["set"]


@pytest.mark.parametrize("kind", KINDS)
def test_what_lies_beside_the_folder_is_left_out(kind, tmp_path):
    path = write(tmp_path / "archive", kind, {**FILES, "__MACOSX/set/._a.txt": b"x", "./readme": b"y"})
    unpack(path, tmp_path / "out", top="set", limit=LIMIT)
    assert os.listdir(tmp_path / "out") == ["set"]


def test_folders_of_their_own_and_dotted_names(tmp_path):
    folder = tarfile.TarInfo("./set/empty folder")
    folder.type = tarfile.DIRTYPE
    write_tar(tmp_path / "archive", {folder: b"", "./set/a": b"1"})
    unpack(tmp_path / "archive", tmp_path / "out", top="set", limit=LIMIT)
    assert (tmp_path / "out" / "set" / "empty folder").is_dir()
    write_zip(tmp_path / "archive.zip", {"set/": b"", "set/x/": b"", "set/a": b"1"})
    unpack(tmp_path / "archive.zip", tmp_path / "out2", top="set", limit=LIMIT)
    assert (tmp_path / "out2" / "set" / "x").is_dir()


def test_permissions_are_not_taken_over(tmp_path):
    member = zipfile.ZipInfo("set/run")
    member.external_attr = (stat.S_IFREG | 0o6777) << 16
    write_zip(tmp_path / "archive.zip", {member: b"x"})
    unpack(tmp_path / "archive.zip", tmp_path / "out", top="set", limit=LIMIT)
    assert (tmp_path / "out" / "set" / "run").stat().st_mode & 0o7111 == 0


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "name", ["../evil", "set/../../evil", "/tmp/evil", "set/..", "..\\evil", "C:\\evil", "C:evil", "\\evil"]
)
def test_a_path_outside_is_refused(kind, name, tmp_path):
    path = write(tmp_path / "archive", kind, {**FILES, name: b"evil"})
    refused(path, tmp_path / "out", "would lie outside")
    assert not (tmp_path / "evil").exists()


def special_zip(path, kind):
    member = zipfile.ZipInfo("set/link")
    member.external_attr = (kind | 0o777) << 16
    write_zip(path, {**FILES, member: b"/etc/passwd"})


@pytest.mark.parametrize("kind", [stat.S_IFLNK, stat.S_IFIFO, stat.S_IFCHR, stat.S_IFBLK, stat.S_IFSOCK])
def test_links_and_devices_in_a_zip_are_refused(kind, tmp_path):
    special_zip(tmp_path / "archive", kind)
    refused(tmp_path / "archive", tmp_path / "out", "a link or a device")


@pytest.mark.parametrize(
    "kind",
    [
        tarfile.SYMTYPE,
        tarfile.LNKTYPE,
        tarfile.FIFOTYPE,
        tarfile.CHRTYPE,
        tarfile.BLKTYPE,
        tarfile.GNUTYPE_SPARSE,
        b"Z",
    ],
)
def test_links_and_devices_in_a_tar_are_refused(kind, tmp_path):
    member = tarfile.TarInfo("set/link")
    member.type, member.linkname = kind, "set/a.txt"
    with tarfile.open(tmp_path / "archive", "w") as archive:
        archive.addfile(tarfile.TarInfo("set/a.txt"))
        archive.addfile(member)
    refused(tmp_path / "archive", tmp_path / "out", "a link, a device or sparse")


@pytest.mark.parametrize("kind", KINDS)
def test_the_bytes_that_come_are_counted(kind, tmp_path):
    path = write(tmp_path / "archive", kind, {"set/a": bytes(600_000), "set/b": bytes(600_000)})
    refused(path, tmp_path / "out", "unpacks to more than the 1,000,000 bytes")


@pytest.mark.parametrize("stated", [1000, 600_000])
def test_a_zip_that_lies_about_its_size_is_found_out(stated, tmp_path):
    path = write(tmp_path / "archive", "zip", {"set/a": bytes(500_000)})
    content = path.read_bytes()
    assert content.count(struct.pack("<I", 500_000)) == 2
    path.write_bytes(content.replace(struct.pack("<I", 500_000), struct.pack("<I", stated)))
    refused(path, tmp_path / "out", "damaged")


def test_no_piece_is_asked_for_that_goes_beyond_the_limit():
    """As tarfile asks for an extended header of the gigabytes that it states."""

    class Asked(io.BytesIO):
        def read(self, size=-1):
            assert size <= 1001
            return super().read(size)

    stream = _Bounded(Asked(bytes(1000)), 1000)
    assert stream.read(2**31) == bytes(1000)
    with pytest.raises(ValueError, match="more than the 1,000 bytes"):
        _Bounded(Asked(bytes(1001)), 1000).read(2**31)


def test_a_tar_whose_header_asks_for_gigabytes_is_not_followed(tmp_path):
    """An extended header is read into memory by its stated size; here 2 GB of it pack into 2 MB."""
    header = tarfile.TarInfo("x")
    header.type, header.size = tarfile.XHDTYPE, 2**31
    with gzip.open(tmp_path / "archive", "wb", compresslevel=1) as file:
        file.write(header.tobuf(tarfile.USTAR_FORMAT))
        for _ in range(4):
            file.write(bytes(10**6))
    refused(tmp_path / "archive", tmp_path / "out", "unpacks to more than")


def test_too_many_entries_are_refused(tmp_path):
    for kind in KINDS:
        path = write(tmp_path / kind, kind, {f"set/{i}": b"" for i in range(11)})
        refused(path, tmp_path / "out", "too many entries", entries=10)
        unpack(path, tmp_path / f"{kind} out", top="set", limit=LIMIT, entries=11)


def test_an_encrypted_zip_is_refused(tmp_path):
    path = write(tmp_path / "archive", "zip", FILES)
    content = bytearray(path.read_bytes())
    content[6] |= 1  # the first local header
    content[content.index(b"PK\x01\x02") + 8] |= 1  # its entry in the directory
    path.write_bytes(content)
    refused(path, tmp_path / "out", "has the encrypted entry 'set/a.txt'")


@pytest.mark.parametrize("method", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_an_unusual_compression_is_refused(method, tmp_path):
    write_zip(tmp_path / "archive", FILES, method)
    refused(tmp_path / "archive", tmp_path / "out", "unusual method")


@pytest.mark.parametrize("kind", KINDS)
def test_a_truncated_archive_is_refused_wherever_it_ends(kind, tmp_path, rng):
    content = write(tmp_path / "whole", kind, FILES).read_bytes()
    if kind == "tar":  # without its end, a block of zeros, and the padding behind that
        content = content[: content.index(b"set/empty") + tarfile.BLOCKSIZE]
    ends = {
        0,
        1,
        511,
        512,
        513,
        1024,
        1536,
        len(content) // 2,
        len(content) - 513,
        len(content) - 512,
        len(content) - 9,
    }
    ends |= {len(content) - 1, *rng.integers(0, len(content), 10).tolist()} | (
        {len(content)} if kind == "tar" else set()
    )
    for end in sorted(ends):
        path = tmp_path / "archive"
        path.write_bytes(content[:end])
        refused(path, tmp_path / "out", r"damaged|cut off|expected the folder")


@pytest.mark.parametrize("kind", KINDS)
def test_a_damaged_archive_never_passes_as_another(kind, tmp_path, rng):
    """Any one byte changed: unpacked as it was, or refused. A plain tar has no checksum of the content."""
    content = write(tmp_path / "whole", kind, {"set/a": b"first", "set/b": b"second" * 50}).read_bytes()
    for position in rng.permutation(len(content))[:100]:
        damaged = bytearray(content)
        damaged[position] ^= 0xFF
        (tmp_path / "archive").write_bytes(damaged)
        try:
            folder = unpack(tmp_path / "archive", tmp_path / f"out {position}", top="set", limit=LIMIT)
        except ValueError as error:
            assert str(error).startswith(f"{tmp_path / 'archive'}: ")
            continue
        found = content_of(folder)
        assert kind == "tar" or sorted(found.values()) == [b"first", b"second" * 50]
        assert len(found) == 2


def test_a_tar_with_a_damaged_header_in_the_middle_is_refused(tmp_path):
    """tarfile itself takes it for the end."""
    path = write(tmp_path / "archive", "tar", {"set/a": b"1", "set/b": b"2"})
    content = bytearray(path.read_bytes())
    content[1024 + 150] ^= 1  # the checksum of the second header
    path.write_bytes(content)
    with tarfile.open(path) as archive:
        assert len(archive.getnames()) == 1
    refused(path, tmp_path / "out", "damaged or cut off at byte 1,024")


@pytest.mark.parametrize("content", [b"", b"PK", b"<!DOCTYPE html><html></html>" * 50, b"\x1f\x8b", bytes(2000)])
def test_what_is_no_archive_is_refused(content, tmp_path):
    (tmp_path / "archive").write_bytes(content)
    refused(tmp_path / "archive", tmp_path / "out", "damaged|no archive|expected the folder")


def test_the_same_entry_twice_is_refused(tmp_path):
    path = write(tmp_path / "archive", "zip", {"set/a": b"1", "set/b": b"2"})
    path.write_bytes(path.read_bytes().replace(b"set/b", b"set/a"))
    refused(tmp_path / "archive", tmp_path / "out", "File exists")


def test_an_archive_of_something_else_says_what_is_in_it(tmp_path):
    path = write(tmp_path / "archive", "zip", {"other/a": b"1", "more": b"2"})
    refused(path, tmp_path / "out", "expected the folder 'set' in it, found more, other")


def test_nothing_is_unpacked_over_a_folder_that_is_there(tmp_path):
    path = write(tmp_path / "archive", "zip", FILES)
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "a.txt").write_text("mine")
    with pytest.raises(ValueError, match="is there already"):
        unpack(path, tmp_path, top="set", limit=LIMIT)
    assert (tmp_path / "set" / "a.txt").read_text() == "mine"


def test_a_missing_archive_is_named(tmp_path):
    refused(tmp_path / "archive", tmp_path / "out", "No such file")
