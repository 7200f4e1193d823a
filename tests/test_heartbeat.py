"""Signs of life: who is blamed for a hang, and that work which goes on is none."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

from esans.heartbeat import HANG_EXIT, Heartbeat, Silence
from esans.signs import FolderBoard, Sign, diagnose


def sign(rank: int, place: str, step: int, waits: bool, seconds: float = 27, left: bool = False) -> Sign:
    return Sign(rank, 100 + rank, 1, place, step, waits, seconds, left)


def test_the_verdict_names_who_holds_up_whom_and_where():
    reads, reduces = sign(1, "reading of a batch", 38, False), sign(0, "all_reduce of the gradients", 38, True)
    assert diagnose([reduces, reads], {}, 2) == (
        "rank 1 has been in 'reading of a batch' of step 38 for 27 s, without entering 'all_reduce of the gradients' of step 38, "
        "where rank 0 has waited for 27 s"
    )
    others = [sign(rank, "all_reduce of the gradients", 38, True) for rank in (0, 2)]
    assert diagnose([*others, reads], {1: 9.0}, 3) == (
        "rank 1 has given no sign of life for over 9 s (it is stopped, or its host is lost); it was last seen in 'reading of a batch' of "
        "step 38, without entering 'all_reduce of the gradients' of step 38, where ranks 0, 2 have waited for 27 s"
    )
    assert diagnose([reduces], {}, 2).startswith("rank 1 has never given a sign of life, without entering")
    assert diagnose([reduces, sign(1, "start", 36, False, left=True)], {}, 2).startswith("rank 1 has left the work after step 36, without")
    assert diagnose([reduces, sign(1, "agreement on a stop", 38, True)], {}, 2) == (
        "the ranks wait for each other in different places: rank 0 has waited in 'all_reduce of the gradients' of step 38 for 27 s; "
        "rank 1 has waited in 'agreement on a stop' of step 38 for 27 s"
    )
    assert diagnose([reduces, sign(1, reduces.place, 38, True)], {}, 2).startswith("the network between the ranks or a device does not")
    assert diagnose([sign(0, "forward pass", 3, True)], {}, 1) == "rank 0 has been in 'forward pass' of step 3 for 27 s"


class Rank:
    """A rank of threads: where it ended, and what it said."""

    def __init__(self, rank: int, folder: Path, seconds: float) -> None:
        self.ended, self.told = threading.Event(), list[str]()
        self.heartbeat = Heartbeat(rank, 2, seconds, FolderBoard(folder), self.told.append, self.end)

    def end(self, code: int) -> None:
        assert code == HANG_EXIT
        self.ended.set()


def test_both_ranks_end_with_one_verdict_once_neither_gets_on(tmp_path):
    ranks = [Rank(rank, tmp_path, 0.6) for rank in range(2)]
    with ranks[0].heartbeat.watching(), ranks[1].heartbeat.watching():
        ranks[0].heartbeat.at("all_reduce of the loss", 5, waits=True)
        ranks[1].heartbeat.at("reading of a batch", 5)
        assert all(rank.ended.wait(30) for rank in ranks)
    # Both may find it in the same moment, with the same words.
    (verdict,) = {*ranks[0].told, *ranks[1].told}
    assert verdict.startswith("rank 1 has been in 'reading of a batch' of step 5")
    assert FolderBoard(tmp_path).verdict() == verdict


def test_a_rank_leaves_its_first_sign_before_it_does_anything(tmp_path):
    rank = Rank(0, tmp_path, 1e6)
    with rank.heartbeat.watching():
        (sign,) = FolderBoard(tmp_path).signs()
    assert (sign.rank, sign.place, sign.left) == (0, "start", False)


def test_waiting_for_a_rank_that_gets_on_is_no_hang(tmp_path):
    ranks = [Rank(rank, tmp_path, 2.0) for rank in range(2)]
    with ranks[0].heartbeat.watching(), ranks[1].heartbeat.watching():
        ranks[0].heartbeat.at("validation: all_reduce of the metrics", 5, waits=True)
        stop = time.monotonic() + 3.0
        while time.monotonic() < stop:
            ranks[1].heartbeat.at("validation: ranking", 5)
            time.sleep(0.01)
    assert not any(rank.ended.is_set() or rank.told for rank in ranks)


def left(rank: int, pid: int, over: bool = False) -> Sign:
    return replace(sign(rank, "writing of the model", 26, False, left=True), pid=pid, over=over)


def verdict_within(silence: Silence, seconds: float, board: FolderBoard, *at_work: Sign) -> str | None:
    """What a launcher finds in this time, while some ranks go on to give signs."""
    stop, number = time.monotonic() + seconds, 1
    while time.monotonic() < stop and (found := silence.verdict()) is None:
        number += 1
        for one in at_work:
            board.put(replace(one, number=number))
        time.sleep(0.01)
    return found


def test_a_rank_that_has_left_the_work_and_does_not_end_is_named_once_nobody_is_at_work(tmp_path):
    board, told = FolderBoard(tmp_path / "0"), list[str]()
    silence = Silence(tmp_path, 0.4, told.append)
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    board.put(left(0, ended.pid))
    board.put(left(1, os.getpid()))
    board.put(left(3, os.getpid(), over=True))
    at_work = replace(sign(2, "writing of the model", 26, False), pid=os.getpid())
    assert verdict_within(silence, 1.0, board, at_work) is None, "it may have to wait for the others to close the group"
    board.put(left(2, ended.pid))
    verdict = verdict_within(silence, 30, board)
    assert verdict is not None
    assert verdict.startswith("rank 1 has left the work after step 26 and does not end for ")
    assert silence.verdict() == verdict
    assert told == [verdict]


def test_ranks_that_have_left_and_ended_are_no_hang(tmp_path):
    board = FolderBoard(tmp_path / "0")
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    board.put(left(0, ended.pid))
    assert verdict_within(Silence(tmp_path, 0.2), 0.6, board) is None


def test_a_rank_whose_process_waits_to_be_reaped_has_ended(tmp_path):
    board = FolderBoard(tmp_path / "0")
    zombie = subprocess.Popen([sys.executable, "-c", ""])
    os.waitid(os.P_PID, zombie.pid, os.WEXITED | os.WNOWAIT)
    board.put(left(0, zombie.pid))
    assert verdict_within(Silence(tmp_path, 0.2), 0.6, board) is None
    zombie.wait()
