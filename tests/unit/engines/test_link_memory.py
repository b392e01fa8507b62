"""What the desk holds in memory does not grow with what sites send and ask for."""

import gc
import tracemalloc
from concurrent.futures import ThreadPoolExecutor

import pytest

from fedsec.engines.link import envelope
from fedsec.engines.link.messages import MAX_PIECE, Have, Pull, Push, decode_answer, encode_request, largest_piece
from fedsec_secure.identity.channel import split
from tests.links import KEYS, Speaker, make_desk, make_exchange

UPLOAD = 64 << 20
SLACK = 1 << 20


@pytest.fixture
def traced():
    gc.collect()
    tracemalloc.start()
    yield
    tracemalloc.stop()


class Desks:
    """Calls the desk for four sites at once, and measures what the desk takes for it, without the sites' own frames."""

    def __init__(self, desk, threads):
        self.desk, self.threads, self.peak = desk, threads, 0

    def answers(self, speakers, requests):
        frames = [self.sealed(s, r) for s, r in zip(speakers, requests, strict=True)]
        before = tracemalloc.get_traced_memory()[0]
        tracemalloc.reset_peak()
        answers = list(self.threads.map(self.desk.answer, frames))
        self.peak = max(self.peak, tracemalloc.get_traced_memory()[1] - before)
        return [self.opened(s, a) for s, a in zip(speakers, answers, strict=True)]

    def sealed(self, speaker, request):
        channel = speaker.channel._channel
        channel.newest += 1
        return envelope.sealed(channel.seal(encode_request(request), channel.newest))

    def opened(self, speaker, answer):
        _, number, sealed = split(envelope.open_answer(answer, envelope.SEALED))
        return decode_answer(speaker.channel._channel.open(number, sealed))


def test_uploads_of_four_sites_at_once_take_a_piece_of_memory_each(tmp_path, traced):
    spool = tmp_path / "spool"
    spool.mkdir()
    desk = make_desk(tmp_path / "incoming", most=UPLOAD)
    desk.post(make_exchange(sites=KEYS), spool)
    speakers = [Speaker(desk, s) for s in KEYS]
    orders = [s.order() for s in speakers]
    piece = bytes(MAX_PIECE)
    data = bytes(UPLOAD)
    for speaker, order in zip(speakers, orders, strict=True):
        speaker.announce(order, data)
    del data
    start = tracemalloc.get_traced_memory()[0]
    with ThreadPoolExecutor(4) as threads:
        desks = Desks(desk, threads)
        for at in range(0, UPLOAD, MAX_PIECE):
            pushes = [Push(o.order, at, memoryview(piece)) for o in orders]
            assert desks.answers(speakers, pushes) == [Have(at + MAX_PIECE)] * 4
    assert desks.peak < 4 * MAX_PIECE + SLACK
    assert tracemalloc.get_traced_memory()[0] - start < SLACK, "nothing of it stays"
    uploads = desk.outcome().uploads()
    assert {p.stat().st_size for p in uploads.values()} == {UPLOAD}
    assert len(uploads) == 4
    for path in uploads.values():
        path.unlink()


def test_a_request_to_four_sites_is_held_once_and_goes_out_in_pieces(tmp_path, traced):
    request = bytes(UPLOAD)
    desk = make_desk(tmp_path / "incoming")
    start = tracemalloc.get_traced_memory()[0]
    desk.post(make_exchange(request, KEYS), tmp_path)
    speakers = [Speaker(desk, s) for s in KEYS]
    orders = [s.order() for s in speakers]
    assert tracemalloc.get_traced_memory()[0] - start < SLACK, "the exchange's own bytes, not another copy"
    with ThreadPoolExecutor(4) as threads:
        desks = Desks(desk, threads)
        for at in range(0, UPLOAD, MAX_PIECE):
            answers = desks.answers(speakers, [Pull(o.order, at, MAX_PIECE) for o in orders])
            assert [len(a.data) for a in answers] == [MAX_PIECE] * 4
            del answers
    assert desks.peak < 4 * 3 * MAX_PIECE + SLACK, "three copies at most: made, sealed, framed"
    assert tracemalloc.get_traced_memory()[0] - start < SLACK
    assert len(desk.outcome().lost) == 4


@pytest.mark.parametrize(
    ("sites", "bytes_"), [(1, 8 << 20), (3, 8 << 20), (6, 4 << 20), (48, 1 << 19), (1000, 1 << 19)]
)
def test_pieces_are_smaller_where_many_sites_may_send_at_once(sites, bytes_):
    assert largest_piece(sites) == bytes_
