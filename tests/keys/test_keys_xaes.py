"""XAES-256-GCM against its specification, and against a second implementation over pycryptodome."""

import hashlib
from concurrent.futures import ThreadPoolExecutor

import pytest
from Crypto.Cipher import AES
from Crypto.Hash import CMAC
from hypothesis import given
from hypothesis import strategies as st

from infinitfs.errors import DamagedFrame
from infinitfs.keys import xaes

NONCE = b"ABCDEFGHIJKLMNOPQRSTUVWX"


def second_seal(key: bytes, nonce: bytes, plaintext: bytes, aad: bytes) -> bytes:
    """The suite as C2SP describes it: NIST SP 800-108r1 in counter mode over AES-CMAC, then AES-GCM."""
    derived = b"".join(
        CMAC.new(key, counter + b"X\x00" + nonce[:12], ciphermod=AES).digest() for counter in (b"\x00\x01", b"\x00\x02")
    )
    cipher = AES.new(derived, AES.MODE_GCM, nonce=nonce[12:])
    cipher.update(aad)
    ciphertext, tag = cipher.encrypt_and_digest(plaintext)
    return ciphertext + tag


@pytest.mark.parametrize(
    ("key", "aad", "sealed"),
    [
        (b"\x01" * 32, b"", "ce546ef63c9cc60765923609b33a9a1974e96e52daf2fcf7075e2271"),
        (
            b"\x03" * 32,
            b"c2sp.org/XAES-256-GCM",
            "986ec1832593df5443a179437fd083bf3fdb41abd740a21f71eb769d",
        ),
    ],
)
def test_vectors_of_the_specification(key: bytes, aad: bytes, sealed: str) -> None:
    assert xaes.seal(key, NONCE, b"XAES-256-GCM", aad).hex() == sealed
    assert xaes.open(key, NONCE, bytes.fromhex(sealed), aad) == b"XAES-256-GCM"


def test_accumulated_vector_of_the_specification() -> None:
    """10,000 messages drawn from one SHAKE-128, their ciphertexts hashed with another."""
    stream = hashlib.shake_128().digest(10_000 * (32 + 24 + 2 * 256))
    assert stream.hex().startswith("7f9c2ba4e88f827d616045507605853e")
    position = 0

    def take(count: int) -> bytes:
        nonlocal position
        position += count
        return stream[position - count : position]

    hashed = hashlib.shake_128()
    for _ in range(10_000):
        key, nonce = take(32), take(24)
        plaintext = take(take(1)[0])
        aad = take(take(1)[0])
        sealed = xaes.seal(key, nonce, plaintext, aad)
        assert xaes.open(key, nonce, sealed, aad) == plaintext
        hashed.update(sealed)
    assert hashed.hexdigest(32) == "e6b9edf2df6cec60c8cbd864e2211b597fb69a529160cd040d56c0c210081939"


@given(
    st.binary(min_size=32, max_size=32),
    st.binary(min_size=24, max_size=24),
    st.lists(st.binary(max_size=200), max_size=4),
    st.binary(max_size=100),
)
def test_equals_the_second_implementation(key: bytes, nonce: bytes, parts: list[bytes], aad: bytes) -> None:
    plaintext = b"".join(parts)
    expected = second_seal(key, nonce, plaintext, aad)
    cipher = xaes.Xaes(key)
    out = bytearray(len(expected))
    cipher.seal_into(nonce, parts, aad, memoryview(out))
    assert cipher.seal(nonce, plaintext, aad) == bytes(out) == expected
    assert cipher.open(nonce, expected, aad) == plaintext


def test_every_difference_is_noticed() -> None:
    key, aad = bytes(range(32)), b"place"
    sealed = xaes.seal(key, NONCE, b"payload", aad)
    for position in range(len(sealed)):
        altered = bytearray(sealed)
        altered[position] ^= 1
        with pytest.raises(DamagedFrame):
            xaes.open(key, NONCE, altered, aad)
    for position in range(24):
        nonce = bytearray(NONCE)
        nonce[position] ^= 1
        with pytest.raises(DamagedFrame):
            xaes.open(key, nonce, sealed, aad)
    for wrong in (b"", b"plac", b"placf"):
        with pytest.raises(DamagedFrame):
            xaes.open(key, NONCE, sealed, wrong)
    with pytest.raises(DamagedFrame):
        xaes.open(bytes(32), NONCE, sealed, aad)
    with pytest.raises(DamagedFrame):
        xaes.open(key, NONCE, sealed[:15], aad)


def test_wrong_sizes_are_refused() -> None:
    with pytest.raises(ValueError, match="32 bytes"):
        xaes.Xaes(bytes(16))
    with pytest.raises(ValueError, match="24 bytes"):
        xaes.seal(bytes(32), bytes(12), b"", b"")
    with pytest.raises(ValueError, match="24 bytes"):
        xaes.open(bytes(32), bytes(25), bytes(16), b"")


def test_threads_share_an_instance() -> None:
    cipher = xaes.Xaes(bytes(range(32)))

    def many(worker: int) -> bool:
        nonces = [bytes([worker, count]) + bytes(22) for count in range(200)]
        sealed = [cipher.seal(nonce, nonce * 20, b"") for nonce in nonces]
        return all(cipher.open(nonce, data, b"") == nonce * 20 for nonce, data in zip(nonces, sealed, strict=True))

    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(many, range(4)))
