"""What a reply or an event means for a topic."""
from __future__ import annotations

import queue

import pytest

from cp_wsrpc.client_topics import Listener, Publication, Topic


def test_a_topic_is_joined_by_its_name():
    assert Topic('news').join_params() == (
        (), {'topic': 'news', 'since': None})


def test_it_is_joined_again_from_the_last_event_seen():
    topic = Topic('news')
    topic.adopt(joined(4))
    assert topic.join_params()[1]['since'] == {'epoch': 'e', 'offset': 4}
    topic.take('d5', 5, 'e')
    assert topic.join_params()[1]['since'] == {'epoch': 'e', 'offset': 5}
    topic.take('d1', 1, 'new')
    assert topic.join_params()[1]['since'] == {'epoch': 'new', 'offset': 1}


def test_an_id_is_all_that_a_topic_without_history_needs():
    topic = Topic('news')
    assert topic.adopt('s1') == []
    assert (topic.state, topic.id, topic.position) == ('in', 's1', None)
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
    assert topic.take('d7', 7, 'e') is None
    assert topic.take('d8', 8, 'e') == Publication('news', 'd8', 8, 'e')


def test_another_epoch_is_another_stream():
    topic = Topic('news')
    topic.adopt(joined(9, epoch='old'))
    topic.leave()
    topic.adopt(joined(2, epoch='new', recovered=False))
    assert topic.position == ('new', 2)
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


@pytest.mark.parametrize('offset, epoch, gap', [
    (6, 'e', False), (6, None, False), (7, 'e', True), (7, None, True),
    (6, 'new', True), (5, 'e', False), (None, None, False)])
def test_a_hole_in_the_offsets_is_seen(offset, epoch, gap):
    topic = Topic('news')
    assert not topic.is_gap_before(offset, epoch)
    topic.adopt(joined(5))
    assert topic.is_gap_before(offset, epoch) is gap


@pytest.mark.parametrize('offset, epoch, is_new', [
    (6, 'e', True), (5, 'e', False), (0, 'new', True), ('6', 'e', False),
    (6, None, False)])
def test_the_server_says_where_it_goes_on(offset, epoch, is_new):
    topic = Topic('news')
    topic.adopt(joined(5))
    assert topic.reset(offset, epoch) is is_new
    assert topic.position == ((epoch, offset) if is_new else ('e', 5))


def follow(topic, *sinces):
    topic.listeners = [Listener(print, since=since) for since in sinces]
    return topic.listeners


def told(listeners):
    for listener in listeners:
        listener.known = True
    return [listener.recovered for listener in listeners]


def heard(listeners, *offsets):
    return [[n for n in offsets if not listener.has(
        Publication('news', None, n, 'e'))] for listener in listeners]


def test_each_listener_is_told_the_truth_about_the_state_it_has():
    topic = Topic('news')
    listeners = follow(topic, ('e', 4), ['e', 5], {'epoch': 'e', 'offset': 3},
                       ('other', 4), None)
    assert topic.join_params()[1]['since'] == {'epoch': 'e', 'offset': 4}
    topic.adopt(joined(6, 5, 6))
    assert told(listeners) == [True, True, False, False, None]
    assert heard(listeners, 5, 6, 7) == [
        [5, 6, 7], [6, 7], [5, 6, 7], [5, 6, 7], [7]]
    late = [Listener(print, since=since)
            for since in [('e', 8), ('e', 6), ('e', 5), None]]
    for listener in late:
        topic.admit(listener)
    assert told(late) == [True, True, False, None]
    assert heard(late, 7, 8, 9) == [[9], [7, 8, 9], [7, 8, 9], [7, 8, 9]]
    topic.leave()
    topic.adopt(joined(6))
    assert told(listeners) == [False] * 5       # joined without a position
    topic.leave()
    topic.join_params()
    topic.adopt(joined(6))
    assert told(listeners) == [True] * 5


def test_what_is_brought_for_one_is_not_for_another_without_a_position():
    topic = Topic('news')
    old = follow(topic, None)
    topic.join_params()
    topic.adopt('s1')
    assert told(old) == [None]
    topic.leave()
    topic.listeners.append(Listener(print, since=('e', 5)))
    topic.join_params()
    topic.adopt(joined(6, 6))
    assert told(topic.listeners) == [False, True]


@pytest.mark.parametrize('reply', [
    's1', joined(6, recovered=False), {'subscription': 's', 'epoch': None,
                                       'offset': None, 'recovered': False}])
def test_a_state_that_cannot_be_gone_on_from(reply):
    topic = Topic('news')
    listeners = follow(topic, ('e', 9))
    topic.join_params()
    topic.adopt(reply)
    assert told(listeners) == [False]
    assert heard(listeners, 7) == [[7]]


@pytest.mark.parametrize('since', [5, 'e', ('e',), (5, 'e'), {}, ('e', 1.5),
                                   ('e', True), {'epoch': 'e'}])
def test_since_must_be_a_position(since):
    with pytest.raises(TypeError, match='since'):
        Listener(print, since=since)
