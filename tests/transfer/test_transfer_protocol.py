"""The messages of the two processes, without any I/O."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from infinitfs import errors
from infinitfs.config.model import FilesystemStorageRecord, S3StorageRecord
from infinitfs.storage.account import Profile, StaticKeys
from infinitfs.storage.base import ObjectInfo
from infinitfs.transfer import protocol
from infinitfs.transfer.protocol import Decoder, Done, Failed, Part, Reply, Request, encode

_HIDDEN = "wJalrXUtnFEMI/K7MDENG"
_numbers = st.integers(0, 2**62)
_texts = st.text(max_size=20)
_bytes = st.binary(max_size=200)
_bodies = st.one_of(
    st.builds(protocol.Upload, _texts, _bytes),
    st.builds(protocol.Download, _texts, _numbers, _numbers, st.booleans(), _bytes),
    st.builds(protocol.Put, _texts, _bytes, st.booleans()),
    st.builds(protocol.Get, _texts, _numbers, st.none() | _numbers),
    st.builds(protocol.Size, _texts),
    st.builds(protocol.List, _texts),
    st.builds(protocol.Delete, _texts),
    st.builds(protocol.Cancel),
)
_requests = st.builds(Request, _numbers, _bodies)
_replies = st.builds(
    Reply,
    _numbers,
    st.one_of(
        st.builds(Done, st.none() | _numbers | _bytes),
        st.builds(Part, st.lists(st.builds(ObjectInfo, _texts, _numbers), max_size=3)),
        st.builds(Failed, _texts, st.dictionaries(_texts, _texts, max_size=3)),
    ),
)


def _split(data: bytes, cuts: list[int]) -> list[bytes]:
    ends = sorted({cut % (len(data) + 1) for cut in cuts} | {0, len(data)})
    return [data[begin:end] for begin, end in itertools.pairwise(ends)]


@given(st.lists(_requests, max_size=8), st.lists(_numbers, max_size=20))
def test_requests_arrive_as_they_were_sent_however_the_stream_is_cut(requests: list[Request], cuts: list[int]) -> None:
    decoder = Decoder(Request)
    stream = b"".join(encode(request) for request in requests)
    assert [message for part in _split(stream, cuts) for message in decoder.feed(part)] == requests


@given(st.lists(_replies, max_size=8), st.lists(_numbers, max_size=20))
def test_replies_arrive_as_they_were_sent_however_the_stream_is_cut(replies: list[Reply], cuts: list[int]) -> None:
    decoder = Decoder(Reply)
    stream = b"".join(encode(reply) for reply in replies)
    assert [message for part in _split(stream, cuts) for message in decoder.feed(part)] == replies


@pytest.mark.parametrize("account", [None, Profile("work"), StaticKeys(access_key_id="A", secret_access_key=_HIDDEN)])
@pytest.mark.parametrize(
    "record",
    [
        FilesystemStorageRecord(name="n", path="/p", created="c"),
        S3StorageRecord(name="n", account="a", region="r", bucket="b", path="p", created="c"),
    ],
)
def test_an_open_carries_record_and_account(
    record: S3StorageRecord | FilesystemStorageRecord, account: Profile | StaticKeys | None
) -> None:
    request = Request(0, protocol.Open(record=record, account=account, upload_limit=1e6))
    assert Decoder(Request).feed(encode(request)) == [request]


def test_an_open_does_not_show_its_secret() -> None:
    keys = StaticKeys(access_key_id="A", secret_access_key=_HIDDEN)
    record = FilesystemStorageRecord(name="n", path="/p", created="c")
    assert _HIDDEN not in repr(protocol.Open(record=record, account=keys))


@given(st.binary(min_size=1, max_size=60))
def test_bytes_that_are_no_message_are_an_error_and_nothing_else(data: bytes) -> None:
    decoder = Decoder(Request)
    try:
        messages = decoder.feed(len(data).to_bytes(4, "big") + data)
    except errors.InfinitfsError:
        return
    assert [encode(message)[4:] for message in messages]


def test_a_length_over_the_limit_is_refused_before_its_bytes_arrive() -> None:
    with pytest.raises(errors.InfinitfsError, match="bytes arrived"):
        Decoder(Request).feed((protocol.MESSAGE_LIMIT + 1).to_bytes(4, "big"))


def test_a_message_over_the_limit_is_not_encoded() -> None:
    with pytest.raises(errors.InfinitfsError, match="is over"):
        encode(Request(1, protocol.Put("key", bytes(protocol.MESSAGE_LIMIT), False)))


@pytest.mark.parametrize(
    "error",
    [
        errors.ObjectNotFound(key="k", storage="s"),
        errors.ObjectExists(key="k", storage="s"),
        errors.AccessDenied(storage="s", action="write", reason="r"),
        errors.StorageUnreachable(storage="s", reason="r"),
        errors.LocalFileFailed(path="p", action="read", reason="r"),
    ],
)
def test_an_error_is_the_same_error_on_the_other_side(error: errors.InfinitfsError) -> None:
    (reply,) = Decoder(Reply).feed(encode(Reply(7, Failed.of(error))))
    assert isinstance(reply.outcome, Failed)
    arrived = reply.outcome.error()
    assert type(arrived) is type(error)
    assert (arrived.fields, str(arrived)) == (error.fields, str(error))
