"""Identities: signatures, sealing to one person, and the record at rest."""

import base64

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.hpke import AEAD, KDF, KEM, Suite
from hypothesis import given
from hypothesis import strategies as st

from infinitfs.errors import IntegrityError, WrongKey, WrongPassphrase
from infinitfs.keys.identity import Identity, PublicIdentity, check_private, is_protected
from tests.support.randomness import seeded

ALICE = Identity.generate(seeded(b"alice"))
BOB = Identity.generate(seeded(b"bob"))
SUITE = Suite(KEM.X25519, KDF.HKDF_SHA256, AEAD.AES_256_GCM)
FAST = 1 << 10


def test_keys_equal_the_second_implementation() -> None:
    draw = seeded(b"alice")
    sign, box = Ed25519PrivateKey.from_private_bytes(draw(32)), X25519PrivateKey.from_private_bytes(draw(32))
    assert ALICE.public.sign == sign.public_key().public_bytes_raw()
    assert ALICE.public.box == box.public_key().public_bytes_raw()
    assert ALICE.sign(b"test", b"message") == sign.sign(b"infinitfs 1 \x04testmessage")


def test_signature() -> None:
    signature = ALICE.sign(b"purpose", b"message")
    ALICE.public.verify(b"purpose", b"message", signature)
    altered = bytes([signature[0] ^ 1]) + signature[1:]
    for who, purpose, message, given_signature in (
        (BOB, b"purpose", b"message", signature),
        (ALICE, b"purpos", b"emessage", signature),
        (ALICE, b"other", b"message", signature),
        (ALICE, b"purpose", b"messagf", signature),
        (ALICE, b"purpose", b"message", altered),
        (ALICE, b"purpose", b"message", signature[:-1]),
        (ALICE, b"purpose", b"message", b""),
    ):
        with pytest.raises(IntegrityError):
            who.public.verify(purpose, message, given_signature)


def test_wrap() -> None:
    sealed = ALICE.public.wrap(b"info", b"secret")
    assert ALICE.unwrap(b"info", sealed) == b"secret"
    assert ALICE.public.wrap(b"info", b"secret") != sealed
    for position in range(len(sealed)):
        altered = bytearray(sealed)
        altered[position] ^= 1
        with pytest.raises(WrongKey):
            ALICE.unwrap(b"info", bytes(altered))
    for who, info, data in ((BOB, b"info", sealed), (ALICE, b"infp", sealed), (ALICE, b"info", sealed[:40])):
        with pytest.raises(WrongKey):
            who.unwrap(info, data)


def test_hpke_equals_the_second_implementation() -> None:
    """Both ways, since each side draws its own ephemeral key."""
    draw = seeded(b"alice")
    draw(32)
    private = X25519PrivateKey.from_private_bytes(draw(32))
    assert SUITE.decrypt(ALICE.public.wrap(b"info", b"secret"), private, b"info") == b"secret"
    public = X25519PublicKey.from_public_bytes(ALICE.public.box)
    assert ALICE.unwrap(b"info", SUITE.encrypt(b"secret", public, b"info")) == b"secret"


def test_public_record() -> None:
    record = ALICE.public.to_public_record()
    assert PublicIdentity.from_public_record(record) == ALICE.public
    weak = base64.b64encode(bytes(32)).decode()
    for change in (
        {"sign": ""},
        {"sign": "!"},
        {"box": record["box"][:-4]},
        {"box": weak},
        {"sign": "é" * 44},
    ):
        with pytest.raises(IntegrityError):
            PublicIdentity.from_public_record({**record, **change})
    with pytest.raises(IntegrityError):
        PublicIdentity.from_public_record({"sign": record["sign"]})


def test_fingerprint() -> None:
    assert ALICE.public.fingerprint == "8de00731184c9808807bae151c888cde"
    assert ALICE.public.fingerprint != BOB.public.fingerprint
    assert ALICE.public.fingerprint in repr(ALICE)


def test_unprotected_record() -> None:
    record = ALICE.to_record(None)
    assert not is_protected(record)
    assert Identity.from_record(record, None).public == ALICE.public
    with pytest.raises(IntegrityError):
        Identity.from_record({"unprotected": str(record["unprotected"])[:-4]}, None)


@given(st.text(min_size=1, max_size=40))
def test_protected_record(passphrase: str) -> None:
    record = ALICE.to_record(passphrase, seeded(b"record"), n=2)
    assert is_protected(record)
    assert Identity.from_record(record, passphrase).public == ALICE.public
    with pytest.raises(WrongPassphrase):
        Identity.from_record(record, passphrase + "x")
    with pytest.raises(WrongPassphrase):
        Identity.from_record(record, None)


def test_a_passphrase_is_the_same_however_it_was_composed() -> None:
    record = ALICE.to_record("\u00e9t\u00e9", n=FAST)
    assert Identity.from_record(record, "e\u0301te\u0301").public == ALICE.public


def test_golden_record() -> None:
    """Users keep this form in exports: it must open for ever."""
    record = ALICE.to_record("passphrase", seeded(b"record"), n=FAST)
    assert record == {
        "kdf": "scrypt",
        "n": 1024,
        "nonce": "2X1ajTEPimw8w7vBoD1HRzhzepIzXHiQ",
        "p": 1,
        "r": 8,
        "salt": "UNoVIVxAK45qIUOYLgFHUg==",
        "sealed": "G+WFnbNukVO+EE3zKUHncU8EU+ID+BDVyPYxI0Sb8YIjhEQQ"
        "qM5j+ieA+njCgRDZXPeB0ZYgiYxCnw0Hzi3CHmGH6LKQfIZjPPnU1JCyGQs=",
    }


def test_nothing_of_the_seeds_shows_in_a_protected_record() -> None:
    seeds = base64.b64decode(str(ALICE.to_record(None)["unprotected"]))
    stored = b"".join(
        base64.b64decode(str(value))
        for field, value in ALICE.to_record("passphrase", n=FAST).items()
        if field in ("salt", "nonce", "sealed")
    )
    assert not any(seeds[start : start + 4] in stored for start in range(len(seeds) - 4))


def test_the_default_cost_is_the_documented_one() -> None:
    assert ALICE.to_record("passphrase")["n"] == 131072


@pytest.mark.parametrize(
    "change",
    [
        {"kdf": "none"},
        {"n": 0},
        {"n": 1},
        {"n": 1023},
        {"n": 1 << 21},
        {"n": 1 << 60},
        {"n": "1024"},
        {"r": 1 << 20},
        {"r": -8},
        {"p": 1 << 14},
        {"p": 0},
        {"n": 4, "r": 1 << 30},
        {"n": 1 << 16, "r": 1},
        {"n": 2, "r": 1 << 22},
        {"salt": ""},
        {"nonce": "AAAA"},
        {"sealed": "AAAA"},
    ],
)
def test_a_damaged_or_absurd_record_is_refused(change: dict[str, str | int]) -> None:
    record = {**ALICE.to_record("passphrase", n=FAST), **change}
    with pytest.raises(IntegrityError) as used:
        Identity.from_record(record, "passphrase")
    with pytest.raises(IntegrityError) as checked:
        check_private(record)
    assert str(checked.value) == str(used.value)


def test_the_largest_n_that_r_allows_is_tried() -> None:
    record = ALICE.to_record("passphrase", n=FAST)
    with pytest.raises(WrongPassphrase):
        Identity.from_record({**record, "n": 1 << 15, "r": 1}, "passphrase")


def test_an_altered_record_does_not_open() -> None:
    record = ALICE.to_record("passphrase", n=FAST)
    for field in ("salt", "nonce", "sealed"):
        data = bytearray(base64.b64decode(str(record[field])))
        data[0] ^= 1
        with pytest.raises(WrongPassphrase):
            Identity.from_record({**record, field: base64.b64encode(data).decode()}, "passphrase")
    with pytest.raises(WrongPassphrase):
        Identity.from_record({**record, "n": FAST * 2}, "passphrase")
