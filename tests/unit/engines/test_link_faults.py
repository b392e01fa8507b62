"""Every frame of an exchange in turn goes wrong, and pieces that are too large for the time that they have."""

import pytest

from fedsec.engines.link.station import LineEndedError, UndeliveredError
from tests.links import LARGE, REQUEST, A, Agent, exchanged, file_of, make_desk, make_exchange


class Faulty:
    """Carries frames, and does something else to the frame of one number."""

    def __init__(self, desk, fault, at):
        self.desk, self.fault, self.at, self.count = desk, fault, at, -1
        self.happened, self.kept = False, None

    def __call__(self, frame):
        self.count += 1
        if self.kept is not None:
            late, self.kept = self.kept, None
            answer = self.desk.answer(frame)
            self.desk.answer(late)
            return answer
        if self.count != self.at:
            return self.desk.answer(frame)
        self.happened = True
        return self.fault(self, frame)


def lose_request(line, frame):
    raise UndeliveredError("lost")


def lose_reply(line, frame):
    line.desk.answer(frame)
    raise UndeliveredError("lost")


def duplicate(line, frame):
    first = line.desk.answer(frame)
    line.desk.answer(frame)
    return first


def second_of_two(line, frame):
    line.desk.answer(frame)
    return line.desk.answer(frame)


def reorder(line, frame):
    line.kept = frame
    raise UndeliveredError("late")


def cut_request(line, frame):
    return line.desk.answer(frame[: len(frame) // 2])


def cut_reply(line, frame):
    answer = line.desk.answer(frame)
    return answer[: len(answer) // 2]


def change_reply(line, frame):
    answer = line.desk.answer(frame)
    return answer[:-1] + bytes([answer[-1] ^ 1])


def empty_reply(line, frame):
    line.desk.answer(frame)
    return b""


def end_before(line, frame):
    raise LineEndedError("ended")


def end_after(line, frame):
    line.desk.answer(frame)
    raise LineEndedError("ended")


FAULTS = [
    lose_request,
    lose_reply,
    duplicate,
    second_of_two,
    reorder,
    cut_request,
    cut_reply,
    change_reply,
    empty_reply,
    end_before,
    end_after,
]


@pytest.mark.parametrize("as_file", [False, True], ids=["bytes", "file"])
@pytest.mark.parametrize("fault", FAULTS, ids=lambda f: f.__name__)
def test_one_frame_that_goes_wrong_anywhere_changes_nothing(tmp_path, spool, fault, as_file):
    reply, request = file_of(tmp_path), b"words " * 20_000
    for at in range(100):
        desk = make_desk(tmp_path / f"incoming-{at}")
        agent = Agent(lambda name, body: reply if as_file else LARGE)
        line = Faulty(desk, fault, at)
        outcome, sites = exchanged(desk, spool, make_exchange(request, attempt=at), {A: agent}, line)
        found = outcome.replies[A]
        assert (found.read_bytes() if as_file else found) == LARGE, at
        assert agent.calls == [("train", request)], at
        assert sites[A].words == "done"
        if not line.happened:
            break
    assert 9 < at < 40, "a run has a greeting, some pieces each way, and an end"


def test_pieces_shrink_until_they_go_through(tmp_path, spool, desk):
    """An engine that gives a frame so much time, over a link that became slow: the same piece would never arrive."""

    def deliver(frame):
        if len(frame) > 40_000:
            raise UndeliveredError("timed out")
        return desk.answer(frame)

    outcome, _ = exchanged(desk, spool, make_exchange(), {A: lambda name, body: LARGE[:300_000]}, deliver)
    assert outcome.replies == {A: LARGE[:300_000]}


def test_pieces_of_a_request_shrink_until_they_come_through(spool, desk):
    def deliver(frame):
        answer = desk.answer(frame)
        if len(answer) > 40_000:
            raise UndeliveredError("timed out")
        return answer

    outcome, _ = exchanged(desk, spool, make_exchange(REQUEST), {A: lambda name, body: body[:9]}, deliver)
    assert outcome.replies == {A: REQUEST[:9]}
