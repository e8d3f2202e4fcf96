"""What a reply or an event means for a topic."""
from __future__ import annotations

import queue

import pytest

from cp_wsrpc.client_topics import Listener, Publication, Topic


def test_a_topic_is_joined_by_its_name():
    assert Topic('news').join_params() == (('news',), {})


def test_an_id_is_all_that_a_topic_without_history_needs():
    topic = Topic('news')
    assert topic.adopt('s1') == []
    assert (topic.state, topic.id, topic.recovered) == ('in', 's1', False)
    assert topic.take({'a': 1}, None, None) == Publication('news', {'a': 1})


@pytest.mark.parametrize('reply', [None, 5, [], {}, {'subscription': 5}])
def test_other_replies_are_no_subscription(reply):
    topic = Topic('news')
    assert topic.adopt(reply) is None
    assert topic.state == 'out'


def joined(offset, *publications, epoch='e', recovered=True):
    return {'subscription': 's', 'epoch': epoch, 'offset': offset,
            'recovered': recovered,
            'publications': [{'offset': n, 'data': f'd{n}'}
                             for n in publications]}


def test_the_gap_comes_in_order_and_what_was_seen_does_not_come_again():
    topic = Topic('news')
    topic.adopt(joined(4))
    topic.take('d5', 5, 'e')
    topic.leave()
    missed = topic.adopt(joined(7, 4, 5, 6, 7))
    assert [event.offset for event in missed] == [6, 7]
    assert topic.recovered
    assert topic.take('d7', 7, 'e') is None
    assert topic.take('d8', 8, 'e') == Publication('news', 'd8', 8, 'e')


def test_another_epoch_is_another_stream():
    topic = Topic('news')
    topic.adopt(joined(9, epoch='old'))
    topic.leave()
    topic.adopt(joined(2, epoch='new', recovered=False))
    assert topic.position == ('new', 2)
    assert not topic.recovered
    assert topic.take('d3', 3, 'new') is not None


def test_an_event_without_offset_is_always_new():
    topic = Topic('news')
    topic.adopt(joined(9))
    assert topic.take('x', None, None) is not None
    assert topic.position == ('e', 9)


def two(data, publication):
    pass


@pytest.mark.parametrize('function, wants_both', [
    (print, False), ([].append, False), (queue.Queue().put, False),
    (lambda data: None, False), (lambda *all: None, False),
    (lambda data, publication=None: None, False), (two, True),
    (lambda data, publication: None, True)])
def test_only_who_requires_two_arguments_gets_two(function, wants_both):
    assert Listener(function)._wants_publication is wants_both


def test_a_listener_that_is_off_hears_nothing_more():
    heard = []
    listener = Listener(heard.append)
    listener.deliver(Publication('news', 1))
    listener.active = False
    listener.deliver(Publication('news', 2))
    assert heard == [1]


@pytest.mark.parametrize('functions', [(None,), ('x',), (print, 'x'),
                                       (print, None, 'x')])
def test_what_is_no_function_is_refused_at_once(functions):
    with pytest.raises(TypeError):
        Listener(*functions)
