"""Whose results are kept, and whose go."""

import pytest

from instancersr.errors import UserError
from instancersr.web import session as module
from instancersr.web.session import Sessions

LIMIT = 100
RESULT = object()
"""In place of an enlarged photo, which the sessions only hold."""


@pytest.fixture
def sessions(tmp_path):
    return Sessions(tmp_path, LIMIT)


def kept(sessions, *names: str) -> list[str]:
    """The visitors among these whose result can still be had; those that cannot have no files either."""
    found = []
    for name in names:
        try:
            sessions.find(name)
        except UserError:
            continue
        found.append(name)
    return found


def test_who_has_just_finished_keeps_the_result_and_who_waits_the_place(sessions):
    first, waiting = sessions.begin("first"), sessions.begin("waiting")
    with sessions.working(waiting):
        with sessions.working(first):
            sessions.keep(first, 2 * LIMIT, RESULT)
        assert first.folder.exists() and waiting.folder.exists()
        sessions.keep(waiting, 1, RESULT)
    assert kept(sessions, "first", "waiting") == ["waiting"] and not first.folder.exists()


def test_a_result_stays_while_its_change_waits_and_goes_once_it_is_the_longest_unused(sessions):
    changed = sessions.begin("changed")
    sessions.keep(changed, LIMIT, RESULT)
    idle = sessions.begin("idle")
    with sessions.working(changed):
        sessions.keep(idle, LIMIT, RESULT)
        assert kept(sessions, "changed", "idle") == ["changed", "idle"]
    assert kept(sessions, "changed", "idle") == ["changed"]  # its change was done last
    sessions.keep(sessions.begin("next"), LIMIT, RESULT)
    assert kept(sessions, "changed", "next") == ["next"] and not changed.folder.exists()


def test_too_many_visitors_make_the_longest_unused_go(sessions, monkeypatch):
    monkeypatch.setattr(module, "KEPT_SESSIONS", 2)
    for name in ("one", "two"):
        sessions.keep(sessions.begin(name), 1, RESULT)
    sessions.find("one")
    sessions.begin("three")
    assert kept(sessions, "one", "two") == ["one"] and len(sessions) == 2
