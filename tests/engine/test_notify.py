"""Notifications reach their receivers: real HTTP servers and real commands."""

from __future__ import annotations

import asyncio
import json
import logging
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from standardwebhooks.webhooks import Webhook

from engine.errors import ConfigError
from engine.ops import notify
from engine.ops.notifications import Notifications
from engine.ops.notify import NotificationCounts, notifying
from engine.ops.status import PipelineState, Status
from engine.settings.notify import NotifySettings
from tests.support.waiting import wait_until_async
from tests.support.web_hooks import SECRET, Hook


@pytest.fixture
def hook() -> Iterator[Callable[..., Hook]]:
    made: list[Hook] = []

    def make(*answers: int | None) -> Hook:
        made.append(Hook(*answers))
        return made[-1]

    yield make
    for it in made:
        it.close()


def run(
    receivers: dict[str, NotifySettings],
    done: Callable[[NotificationCounts], bool],
    states: tuple[PipelineState, ...] = ("streaming",),
) -> NotificationCounts:
    """Show one state after the other, wait until ``done``, and end with the state stopped."""
    counts: NotificationCounts = Counter()

    async def scenario() -> None:
        shown = iter(states)
        status = Status(pipeline="shop")

        def now() -> Status:
            nonlocal status
            state = next(shown, None) or status.state
            status = Status(pipeline="shop", state=state)
            return status

        async with notifying(receivers, now, Notifications(300.0), counts):
            await wait_until_async(lambda: done(counts), timeout=20, what=f"{counts}")
            shown = iter(("stopped",))

    asyncio.run(scenario())
    return counts


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(notify, "WATCH_SECONDS", 0.01)
    monkeypatch.setattr(notify, "FIRST_SECONDS", 0.01)
    monkeypatch.setattr(notify, "CLOSE_SECONDS", 1.0)


def test_a_webhook_that_fails_at_first(
    hook: Callable[..., Hook], caplog: pytest.LogCaptureFixture
) -> None:
    there = hook(500, None, 302, 429)
    counts = run(
        {"pager": NotifySettings(url=there.url, secret=SECRET)},
        lambda counts: counts["pager", "sent"] == 2,
        ("connecting", "streaming"),
    )
    assert counts == {("pager", "failed"): 4, ("pager", "sent"): 3}
    # The same notification each time, then the next ones in order.
    assert there.types() == ["state.connecting"] * 5 + ["state.streaming", "state.stopped"]
    ids = [headers["webhook-id"] for headers, _ in there.requests]
    assert len(set(ids[:5])) == 1
    assert len(set(ids)) == 3
    for headers, body in there.requests:
        assert Webhook(SECRET).verify(body, headers)["id"] == headers["webhook-id"]
    # The address of a webhook is a secret.
    assert "planted-token" not in caplog.text
    assert caplog.records[0].__dict__["receiver"] == "pager"


def test_a_notification_that_is_refused_is_lost_and_the_next_one_follows(
    hook: Callable[..., Hook], caplog: pytest.LogCaptureFixture
) -> None:
    there = hook(422)
    counts = run({"pager": NotifySettings(url=there.url)}, lambda counts: counts.total() == 1)
    assert counts == {("pager", "lost"): 1, ("pager", "sent"): 1}
    assert there.types() == ["state.streaming", "state.stopped"]
    assert "webhook-signature" not in there.requests[0][0]
    assert [record.getMessage() for record in caplog.records] == ["a notification is lost"]


def test_an_old_notification_is_given_up(hook: Callable[..., Hook]) -> None:
    there = hook(*[503] * 1000)
    receiver = NotifySettings(url=there.url, give_up_seconds=0.05)
    counts = run({"pager": receiver}, lambda counts: counts["pager", "lost"] == 1)
    assert counts["pager", "failed"] >= 1
    assert counts["pager", "sent"] == 0


def test_a_receiver_that_is_away_does_not_hold_up_another_one(
    hook: Callable[..., Hook], caplog: pytest.LogCaptureFixture
) -> None:
    away, there = hook(), hook()
    away.close()
    receivers = {
        "away": NotifySettings(url=away.url),
        "there": NotifySettings(url=there.url),
        "off": NotifySettings(),
    }
    counts = run(receivers, lambda counts: counts["there", "sent"] == 1)
    assert there.types() == ["state.streaming", "state.stopped"]
    # What is not sent at the end is said.
    assert counts["away", "lost"] == 2
    lost = [it for it in caplog.records if it.levelno == logging.ERROR]
    assert {it.__dict__["notification"] for it in lost} == {"state.streaming", "state.stopped"}


def test_events_are_selected(hook: Callable[..., Hook]) -> None:
    there, other = hook(), hook()
    receivers = {
        "there": NotifySettings(url=there.url),
        "other": NotifySettings(url=other.url, events=("alert",)),
    }
    run(receivers, lambda counts: counts["there", "sent"] == 1)
    assert other.requests == []


def test_a_command_has_the_notification_as_input(tmp_path: Path) -> None:
    script, out = tmp_path / "hook.py", tmp_path / "out"
    script.write_text(
        "import os, sys\n"
        "first = not os.path.exists(sys.argv[1])\n"
        "with open(sys.argv[1], 'a') as out:\n"
        "    out.write(os.environ['TAILRACE_NOTIFICATION_TYPE'] + ' ' + sys.stdin.read())\n"
        "sys.exit(first)\n"
    )
    command = (sys.executable, "-I", str(script), str(out))
    counts = run(
        {"script": NotifySettings(command=command)}, lambda counts: counts["script", "sent"] == 1
    )
    assert counts == {("script", "failed"): 1, ("script", "sent"): 2}
    lines = [line.split(" ", 1) for line in out.read_text().splitlines()]
    assert [type for type, _ in lines] == ["state.streaming", "state.streaming", "state.stopped"]
    first, again, _ = (json.loads(body) for _, body in lines)
    assert first == again
    assert first["data"] == {"pipeline": "shop", "text": "Following.", "state": "streaming"}


@pytest.mark.parametrize(
    ("command", "reason"),
    [
        (("/nowhere/hook",), "the command cannot be started: No such file or directory"),
        (("/bin/false",), "the command ends with status 1"),
        (("/bin/sleep", "60"), "the command does not end in time"),
    ],
)
def test_a_command_that_fails_is_said(
    command: tuple[str, ...], reason: str, caplog: pytest.LogCaptureFixture
) -> None:
    receiver = NotifySettings(command=command, timeout_seconds=0.2, give_up_seconds=0.001)
    run({"script": receiver}, lambda counts: counts["script", "lost"] == 1)
    assert caplog.records[0].__dict__["error"] == reason


@pytest.mark.parametrize(
    ("name", "value"), [("ALL_PROXY", "socks5://x:planted@proxy"), ("SSL_CERT_FILE", "/none")]
)
def test_a_machine_that_cannot_send_requests(
    name: str, value: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(ConfigError, match="no request can be sent") as refused:
        run({"pager": NotifySettings(url="https://127.0.0.1:1")}, lambda _: True)
    assert "planted" not in str(refused.value)


def test_a_bug_is_logged(
    hook: Callable[..., Hook], caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def broken(*_: object, **__: object) -> None:
        raise RuntimeError("a bug")

    monkeypatch.setattr(notify, "post", broken)
    run({"pager": NotifySettings(url=hook().url)}, lambda _: bool(caplog.records))
    assert caplog.records[0].getMessage() == "no notifications are sent any more"
    assert caplog.records[0].exc_info is not None


@pytest.mark.parametrize(
    ("settings", "problem"),
    [
        ({"url": "ftp://example.com"}, "not an http"),
        ({"url": "https://example.com", "command": ("a",)}, "a url and a command"),
        ({"command": ("a",), "secret": SECRET}, "a secret needs a url"),
        ({"url": "https://example.com", "secret": "planted"}, "secret is not whsec_"),
        ({"url": "https://example.com", "secret": "whsec_c2hvcnQ="}, "secret is not whsec_"),
    ],
)
def test_settings_that_cannot_be(settings: dict[str, object], problem: str) -> None:
    with pytest.raises(ConfigError, match=problem) as refused:
        NotifySettings(**settings)  # type: ignore[arg-type]
    assert "planted" not in str(refused.value)
