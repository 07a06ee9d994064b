"""A user's identity: an Ed25519 key that signs and an X25519 key that others seal to.

Role: signatures, sealing to one person, and the private keys' form at rest. Above: `keys/ring.py`,
`volume/descriptor.py`, `volume/journal`, `cli/user.py`. Below: `pycryptodome` (Ed25519 of RFC 8032, HPKE of
RFC 9180), `hashlib.scrypt` (RFC 7914), `keys/xaes.py`.
Invariant: a signature holds for one purpose only, and a sealed message opens for one `info` only.

What is signed is `b"infinitfs 1 " || u8 length of purpose || purpose || message`. HPKE is its base mode with
DHKEM(X25519, HKDF-SHA256), HKDF-SHA256 and AES-256-GCM; a sealed message is the encapsulated key (32 bytes),
then ciphertext and tag. HPKE draws its ephemeral key from the operating system: the library offers no other
source.
At rest the two 32-byte seeds are sealed with XAES-256-GCM under scrypt of the passphrase (NFC, UTF-8).
"""

import base64
import binascii
import hashlib
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self

from blake3 import blake3
from Crypto.Protocol import HPKE
from Crypto.Protocol.DH import import_x25519_private_key, import_x25519_public_key
from Crypto.Signature import eddsa

from infinitfs.errors import DamagedFrame, IntegrityError, WrongKey, WrongPassphrase
from infinitfs.keys import RandomBytes, system_random, xaes

KEY_SIZE = 32
SIGNATURE_SIZE = 64
SCRYPT_N = 1 << 17
"""Cost of a passphrase: 128 MiB and about 0.4 s (measured)."""

_SCRYPT_R = 8
_SCRYPT_P = 1
_MAX_COST = 1 << 23
"""The largest n * r * p that a record may ask for: 1 GiB."""
_MAX_R = 1 << 10
"""Beyond it OpenSSL's own buffers would have the size of what `n` asks for."""

_DOMAIN = b"infinitfs 1 "
_AT_REST = _DOMAIN + b"identity"
_SALT_SIZE = 16


def _to_sign(purpose: bytes, message: bytes) -> bytes:
    return _DOMAIN + len(purpose).to_bytes(1, "big") + purpose + message


def _encode(data: bytes) -> str:
    return base64.b64encode(data).decode("ascii")


def _decode(record: Mapping[str, object], field: str, size: int | None = None) -> bytes:
    value = record.get(field)
    try:
        data = base64.b64decode(value, validate=True) if isinstance(value, str) else None
    except (binascii.Error, ValueError):
        data = None
    if data is None or (size is not None and len(data) != size):
        raise IntegrityError(problem=f'The field "{field}" of a key is damaged: restore the key from its export.')
    return data


@dataclass(frozen=True, slots=True)
class PublicIdentity:
    """The half that everyone may know: `sign`, an Ed25519 key, and `box`, an X25519 key, of 32 bytes each."""

    sign: bytes
    box: bytes

    def verify(self, purpose: bytes, message: bytes, signature: bytes) -> None:
        """Return where `Identity.sign(purpose, message)` gave `signature`; raises IntegrityError
        otherwise."""
        try:
            key = eddsa.import_public_key(self.sign)
            eddsa.new(key, "rfc8032").verify(_to_sign(purpose, message), signature)
        except ValueError:
            raise IntegrityError(
                problem="A signature is not the one of its owner: what it signs was not used."
            ) from None

    def wrap(self, info: bytes, plaintext: bytes) -> bytes:
        """`plaintext` sealed so that only this identity opens it, with the same `info`; 48 bytes longer."""
        sender = HPKE.new(receiver_key=import_x25519_public_key(self.box), aead_id=HPKE.AEAD.AES256_GCM, info=info)
        return sender.enc + sender.seal(plaintext)

    @property
    def fingerprint(self) -> str:
        """32 hex digits (128 bits of BLAKE3 over both keys), for people to compare."""
        return blake3(self.sign + self.box, derive_key_context="infinitfs 1 fingerprint").hexdigest(length=16)

    def to_public_record(self) -> dict[str, str]:
        """The form in records and exports: base64 of each key."""
        return {"sign": _encode(self.sign), "box": _encode(self.box)}

    @classmethod
    def from_public_record(cls, record: Mapping[str, str]) -> Self:
        """The identity of `to_public_record`. Raises IntegrityError where a key is missing, damaged or
        weak."""
        public = cls(_decode(record, "sign", KEY_SIZE), _decode(record, "box", KEY_SIZE))
        try:
            eddsa.import_public_key(public.sign)
            import_x25519_public_key(public.box)
        except ValueError:
            raise IntegrityError(problem="A public key is not a valid one: ask for a new export of the user.") from None
        return public


class Identity:
    """Both halves of a user's keys, from two seeds of 32 bytes."""

    def __init__(self, sign_seed: bytes, box_seed: bytes) -> None:
        self._seeds = (sign_seed, box_seed)
        self._signer = eddsa.import_private_key(sign_seed)
        self._box = import_x25519_private_key(box_seed)
        self.public = PublicIdentity(
            self._signer.public_key().export_key(format="raw"),
            self._box.public_key().export_key(format="raw"),
        )

    @classmethod
    def generate(cls, random: RandomBytes = system_random) -> Self:
        return cls(random(KEY_SIZE), random(KEY_SIZE))

    def __repr__(self) -> str:
        return f"Identity({self.public.fingerprint})"

    def sign(self, purpose: bytes, message: bytes) -> bytes:
        """The Ed25519 signature (64 bytes) of `message`, good for `purpose` (at most 255 bytes) only."""
        return eddsa.new(self._signer, "rfc8032").sign(_to_sign(purpose, message))

    def unwrap(self, info: bytes, sealed: bytes) -> bytes:
        """The plaintext of `PublicIdentity.wrap`. Raises WrongKey where it is another's, or was altered."""
        try:
            receiver = HPKE.new(receiver_key=self._box, aead_id=HPKE.AEAD.AES256_GCM, enc=sealed[:KEY_SIZE], info=info)
            return receiver.unseal(sealed[KEY_SIZE:])
        except ValueError:
            raise WrongKey(problem="This user's key does not open what was sealed: use the right user.") from None

    def to_record(
        self, passphrase: str | None, random: RandomBytes = system_random, *, n: int = SCRYPT_N
    ) -> dict[str, str | int]:
        """The private half at rest: sealed under `passphrase` with scrypt's cost `n`, or, where it is None,
        plain."""
        seeds = b"".join(self._seeds)
        if passphrase is None:
            return {"unprotected": _encode(seeds)}
        salt, nonce = random(_SALT_SIZE), random(xaes.NONCE_SIZE)
        key = _stretch(passphrase, salt, n, _SCRYPT_R, _SCRYPT_P)
        return {
            "kdf": "scrypt",
            "n": n,
            "r": _SCRYPT_R,
            "p": _SCRYPT_P,
            "salt": _encode(salt),
            "nonce": _encode(nonce),
            "sealed": _encode(xaes.seal(key, nonce, seeds, _AT_REST)),
        }

    @classmethod
    def from_record(cls, record: Mapping[str, str | int], passphrase: str | None) -> Self:
        """The identity of `to_record`. Raises WrongPassphrase (also where one is needed and none is given),
        IntegrityError where the record is damaged or asks for an absurd cost."""
        if not is_protected(record):
            seeds = _plain(record)
        elif passphrase is None:
            raise WrongPassphrase(what="the user's key")
        else:
            n, r, p, salt, nonce, sealed = _protected(record)
            try:
                seeds = xaes.open(_stretch(passphrase, salt, n, r, p), nonce, sealed, _AT_REST)
            except DamagedFrame:
                raise WrongPassphrase(what="the user's key") from None
        return cls(seeds[:KEY_SIZE], seeds[KEY_SIZE:])


def is_protected(record: Mapping[str, str | int]) -> bool:
    """Whether a private record of `to_record` needs a passphrase."""
    return "unprotected" not in record


def check_private(record: Mapping[str, str | int]) -> None:
    """Raise the IntegrityError that `Identity.from_record` would raise under every passphrase."""
    if is_protected(record):
        _protected(record)
    else:
        _plain(record)


def _plain(record: Mapping[str, str | int]) -> bytes:
    return _decode(record, "unprotected", 2 * KEY_SIZE)


def _protected(record: Mapping[str, str | int]) -> tuple[int, int, int, bytes, bytes, bytes]:
    """The parameters of scrypt (n, r, p, salt), the nonce, and what is sealed."""
    cost = [record.get(field) for field in ("n", "r", "p")]
    if record.get("kdf") != "scrypt" or not all(type(value) is int and value > 0 for value in cost):
        raise IntegrityError(problem="A protected key does not say how: restore the key from its export.")
    n, r, p = (int(value) for value in cost if value is not None)
    # The last is RFC 7914's own bound, n < 2^(128 * r / 8).
    if n < 2 or n & (n - 1) or n * r * p > _MAX_COST or r > _MAX_R or n.bit_length() > 16 * r:
        raise IntegrityError(
            problem=f"A key asks for scrypt with n={n}, r={r}, p={p}: restore the key from its export."
        )
    salt, nonce = _decode(record, "salt", _SALT_SIZE), _decode(record, "nonce", xaes.NONCE_SIZE)
    return n, r, p, salt, nonce, _decode(record, "sealed", 2 * KEY_SIZE + xaes.TAG_SIZE)


def _stretch(passphrase: str, salt: bytes, n: int, r: int, p: int) -> bytes:
    secret = unicodedata.normalize("NFC", passphrase).encode()
    # OpenSSL refuses what needs more than `maxmem`; this is RFC 7914's use, and room for its own buffers.
    memory = 128 * r * (n + p + 2) + (1 << 20)
    return hashlib.scrypt(secret, salt=salt, n=n, r=r, p=p, maxmem=memory, dklen=KEY_SIZE)
