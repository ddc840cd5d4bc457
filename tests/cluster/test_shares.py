"""Shares of a job: dealt out, tried again, given up."""

import collections
import itertools
import re
from concurrent import futures

import pytest

from delf_jax.cluster import shares as dealing
from delf_jax.cluster.shares import Answer, Worker
from delf_jax.files import InputError
from tests.helpers.clusters import (
    done,
)


def deal_out(shares, answer, count=2, ready=None):
    """What `dealing.deal_out` gives, and how often each share was asked for.

    Args:
      answer: to (share, number of the attempt): an Answer, or an exception: it dies.
      ready: futures of the workers, in the order of their start.
    """
    asked, started, stopped = collections.Counter(), [], []
    coming = iter(ready or ())

    def start():
        number = len(started)

        def work(share):
            asked[share] += 1
            return done(answer(share, asked[share]))

        ready = next(coming, done(Answer()))
        started.append(Worker(ready, work, lambda: stopped.append(number)))
        return started[-1]

    found = list(dealing.deal_out(shares, start, count))
    return found, asked, started, stopped


def test_each_share_is_done_once():
    shares = [(n,) for n in range(7)]
    found, asked, started, stopped = deal_out(shares, lambda s, _: Answer(2 * s[0]))
    assert {each.share: each.result for each in found} == {s: 2 * s[0] for s in shares}
    assert not any(each.reason for each in found)
    assert set(asked.values()) == {1} and len(started) == 2 and stopped == []


def test_no_more_workers_start_than_there_are_shares():
    assert len(deal_out([(1,)], lambda *_: Answer(), count=8)[2]) == 1
    assert deal_out([], lambda *_: Answer(), count=8)[2] == []


def test_a_share_of_a_worker_that_dies_is_done_by_another():
    def answer(share, attempt):
        dies = share == (3,) and attempt == 1
        return ConnectionError("killed") if dies else Answer(share)

    found, asked, started, stopped = deal_out([(n,) for n in range(6)], answer)
    assert sorted(each.result for each in found) == [(n,) for n in range(6)]
    assert asked[3,] == 2 and len(started) == 3 and len(stopped) == 1


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (Answer(failure="KeyError: 'x'"), "KeyError: 'x'"),
        (ConnectionError("all\n\n  The raylet died.\n"), "worker died .*raylet died"),
        (ConnectionError(), "worker died .*ConnectionError"),
    ],
)
def test_a_share_that_fails_three_times_is_given_up_and_the_job_goes_on(answer, reason):
    shares = [(n,) for n in range(5)]
    found, asked, *_ = deal_out(shares, lambda s, _: answer if s == (2,) else Answer(s))
    results = {each.share: each for each in found}
    assert asked[2,] == 3 and len(found) == 5
    assert results[2,].reason.startswith("failed 3 times: ")
    assert re.search(reason, results[2,].reason)
    assert [s for s in shares if results[s].reason] == [(2,)]


def test_a_share_that_fails_waits_for_the_others():
    order = []

    def answer(share, attempt):
        order.append(share)
        return Answer(failure="once") if attempt == 1 and share == (0,) else Answer()

    found, *_ = deal_out([(0,), (1,), (2,)], answer, count=1)
    assert order == [(0,), (1,), (2,), (0,)] and not any(d.reason for d in found)


def test_what_the_user_must_mend_ends_the_job_at_once():
    asked = []

    def answer(share, attempt):
        asked.append(share)
        return Answer(refusal="OUT: the disk is full")

    with pytest.raises(InputError, match="^OUT: the disk is full$"):
        deal_out([(n,) for n in range(9)], answer, count=1)
    assert len(asked) == 1


def test_a_machine_that_is_not_fit_ends_the_job():
    with pytest.raises(InputError, match="does not see it"):
        ready = [done(Answer(refusal="/a: machine b does not see it"))]
        deal_out([(1,)], lambda *_: Answer(), ready=ready)


@pytest.mark.parametrize("end", [OSError("no module"), Answer(failure="no module")])
def test_workers_that_never_start_end_the_job(end):
    with pytest.raises(InputError, match="no worker can start: .*no module"):
        deal_out([(1,), (2,)], lambda *_: Answer(), ready=map(done, [end] * 99))


def test_a_worker_that_does_not_come_is_not_waited_for_while_others_work(monkeypatch):
    late = futures.Future()
    found, *_ = deal_out([(1,), (2,)], lambda *_: Answer(1), ready=[late])
    assert len(found) == 2
    monkeypatch.setattr(dealing, "_PATIENCE", 0.01)
    with pytest.raises(InputError, match="no worker has started"):
        deal_out([(1,)], lambda *_: Answer(1), ready=[late])


@pytest.mark.parametrize("count", [1, 2, 7, 100, 1000])
@pytest.mark.parametrize(("most", "workers"), [(256, 1), (256, 3), (10, 3), (1, 1)])
def test_shares_have_all_items_once_as_parts_have(count, most, workers):
    items = list(range(count))
    shares = dealing.split(items, most, workers)
    assert sorted(itertools.chain(*shares)) == items
    assert 1 <= min(map(len, shares)) and max(map(len, shares)) <= most
    assert max(map(len, shares)) - min(map(len, shares)) <= 1
    assert shares == [items[i :: len(shares)] for i in range(len(shares))]
    # No worker is without work while another has several shares to go.
    assert len(shares) >= min(count, 4 * workers)
