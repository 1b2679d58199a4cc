"""The certificate of TLS at the front: what cannot be used, and files that change."""

import asyncio
import logging
import os
import ssl
from pathlib import Path
from typing import Any

import pytest
import trustme
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    PrivateFormat,
    load_pem_private_key,
)

from otel_sessions import ConfigError
from otel_sessions.proxy.certificate import Certificate
from tests.virtual import VirtualLoop

from .certificates import Files, issued, trusting, written

pytestmark = pytest.mark.no_cover


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture
def files(authority: trustme.CA, tmp_path: Path) -> Files:
    return written(tmp_path, issued(authority))


def made(files: Files) -> Certificate:
    return Certificate(str(files.cert), str(files.key))


def is_trusted(certificate: Certificate, authority: trustme.CA) -> bool:
    """Shake hands in memory."""
    inward, outward = ssl.MemoryBIO(), ssl.MemoryBIO()
    there = trusting(authority).wrap_bio(outward, inward, server_hostname="127.0.0.1")
    here = certificate.context.wrap_bio(inward, outward, server_side=True)
    try:
        for side in [there, here] * 4:
            try:
                side.do_handshake()
            except ssl.SSLWantReadError:
                continue
    except ssl.SSLCertVerificationError:
        return False
    return there.version() is not None


def test_it_speaks_nothing_older_than_tls_1_2(files: Files, authority: trustme.CA) -> None:
    certificate = made(files)

    assert certificate.context.minimum_version == ssl.TLSVersion.TLSv1_2
    assert is_trusted(certificate, authority)


CONTENTS = {"empty": b"", "text": b"hello", "binary": bytes(range(256))}


def encrypted(key: bytes) -> bytes:
    return load_pem_private_key(key, None).private_bytes(
        Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"secret")
    )


def spoil(files: Files, how: str) -> None:
    cert, key = files.cert, files.key
    match how:
        case "no cert":
            cert.unlink()
        case "no key":
            key.unlink()
        case "cert is a folder" | "key is a folder":
            path = cert if how.startswith("cert") else key
            path.unlink()
            path.mkdir()
        case "cert is a pipe":
            cert.unlink()
            os.mkfifo(cert)
        case "swapped":
            parts = cert.read_bytes(), key.read_bytes()
            key.write_bytes(parts[0])
            cert.write_bytes(parts[1])
        case "key of another":
            issued(trustme.CA()).private_key_pem.write_to_path(key)
        case "encrypted key":
            key.write_bytes(encrypted(key.read_bytes()))
        case _:
            (cert if how.startswith("cert") else key).write_bytes(CONTENTS[how.partition(" is ")[2]])


@pytest.mark.parametrize(
    ("how", "flag", "says"),
    [
        ("no cert", "--tls-cert", "No such file or directory"),
        ("no key", "--tls-key", "No such file or directory"),
        ("cert is a folder", "--tls-cert", "Is a directory"),
        ("key is a folder", "--tls-key", "Is a directory"),
        ("cert is a pipe", "--tls-cert", "the path is no regular file"),
        ("cert is empty", "--tls-cert", "the file has no certificate in PEM"),
        ("key is empty", "--tls-key", "the file has no private key in PEM"),
        ("cert is text", "--tls-cert", "the file has no certificate in PEM"),
        ("cert is binary", "--tls-cert", "the file has no certificate in PEM"),
        ("key is text", "--tls-key", "the file has no private key in PEM"),
        ("swapped", "--tls-cert", "the file has no certificate in PEM"),
        ("key of another", "--tls-key", "the key does not belong to the first certificate in "),
        ("encrypted key", "--tls-key", "the key is encrypted; give a key without a passphrase"),
    ],
)
def test_a_file_that_cannot_be_used_is_named_with_its_flag(files: Files, how: str, flag: str, says: str) -> None:
    path = files.cert if flag == "--tls-cert" else files.key
    spoil(files, how)

    with pytest.raises(ConfigError, match=f"^{flag} {path}: {says}"):
        made(files)


def test_one_file_may_hold_the_certificate_and_the_key(files: Files, authority: trustme.CA) -> None:
    both = files.cert.with_name("both.pem")
    both.write_bytes("Ein Schlüssel\n".encode() + files.key.read_bytes() + files.cert.read_bytes())

    assert is_trusted(Certificate(str(both), str(both)), authority)


def test_a_chain_with_an_intermediate_authority_is_sent_whole(authority: trustme.CA, tmp_path: Path) -> None:
    files = written(tmp_path, issued(authority.create_child_ca()))

    assert is_trusted(made(files), authority)


def test_a_certificate_that_has_expired_is_a_warning(
    authority: trustme.CA, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    files = written(tmp_path, issued(authority, expired=True))
    made(files)

    assert caplog.messages == [f"clients will refuse the certificate in {files.cert}: certificate has expired"]


def test_a_good_certificate_is_no_warning(files: Files, caplog: pytest.LogCaptureFixture) -> None:
    made(files)

    assert caplog.messages == []


class TestFilesThatChange:
    def test_a_new_certificate_is_used_once_it_stays_as_it_is(self, files: Files, authority: trustme.CA) -> None:
        certificate, other = made(files), trustme.CA()
        files.replace(issued(other))
        certificate.look()
        assert is_trusted(certificate, authority)
        certificate.look()

        assert is_trusted(certificate, other)
        assert not is_trusted(certificate, authority)

    @pytest.mark.parametrize("how", ["no cert", "key is empty", "key of another", "encrypted key", "cert is text"])
    def test_files_that_cannot_be_used_change_nothing_and_are_logged_once(
        self, files: Files, authority: trustme.CA, how: str, caplog: pytest.LogCaptureFixture
    ) -> None:
        certificate = made(files)
        spoil(files, how)
        for _ in range(5):
            certificate.look()

        assert is_trusted(certificate, authority)
        [record] = caplog.records
        assert record.levelno == logging.WARNING
        assert record.getMessage().startswith("the certificate stays as it was, since its files cannot be used: --tls-")

    def test_a_pair_that_is_still_being_written_is_waited_for(
        self, files: Files, caplog: pytest.LogCaptureFixture
    ) -> None:
        certificate, other, new = made(files), trustme.CA(), files.cert.with_name("new")
        new.mkdir()
        follows = written(new, issued(other))
        files.cert.write_bytes(follows.cert.read_bytes())
        certificate.look()
        files.key.write_bytes(follows.key.read_bytes())
        certificate.look()
        certificate.look()

        assert is_trusted(certificate, other)
        assert [record for record in caplog.records if record.levelno >= logging.WARNING] == []

    def test_files_that_are_mended_are_used(self, files: Files) -> None:
        certificate, other = made(files), trustme.CA()
        files.key.unlink()
        certificate.look()
        certificate.look()
        files.replace(issued(other))
        certificate.look()
        certificate.look()

        assert is_trusted(certificate, other)

    def test_files_that_are_as_they_were_are_not_read_as_new(
        self, files: Files, caplog: pytest.LogCaptureFixture
    ) -> None:
        certificate = made(files)
        before = certificate.context
        files.cert.touch()
        for _ in range(3):
            certificate.look()

        assert certificate.context is before
        assert caplog.messages == []


@pytest.mark.anyio
@pytest.mark.parametrize("anyio_backend", [("asyncio", {"loop_factory": VirtualLoop})])
async def test_files_that_have_changed_are_used_within_a_minute(
    files: Files, anyio_backend: tuple[str, dict[str, Any]]
) -> None:
    certificate, other = made(files), trustme.CA()
    watching = asyncio.create_task(certificate.watch())
    await asyncio.sleep(0.5)
    files.replace(issued(other))
    await asyncio.sleep(60)
    watching.cancel()

    assert is_trusted(certificate, other)
