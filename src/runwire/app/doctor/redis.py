"""Redis: does it answer, may we use it, and does it forget what it should keep."""

from __future__ import annotations

import asyncio

from runwire.app.doctor.finding import Finding, by_sentence, fault, fine, skipped, warning
from runwire.app.doctor.subject import Subject
from runwire.errors import ConfigurationError, Unavailable
from runwire.settings import Settings
from runwire.storage.condition import RedisCondition
from runwire.storage.open import examine_redis

__all__ = ["examine_hints"]

_COUNTED = ("user_messages_per_minute", "key_messages_per_minute", "user_tokens_per_day", "user_cost_per_day")
_OTHERWISE = "correct redis_url"


async def examine_hints(subject: Subject) -> list[Finding]:
    """Look at what carries hints between processes, and counts for all of them."""
    settings = subject.settings
    if not settings.is_shared:
        return [skipped("redis", "not needed: one process has the database")]
    if settings.redis_url is None:
        return [fine("redis", "none is set: hints go by NOTIFY of the database")]
    if "redis" in subject.missing_extras:
        return [skipped("redis", "not asked: its client is not installed")]
    shown = settings.shown_redis_url
    try:
        condition = await _looked_at(settings.redis_url, settings.redis_prefix, limit_s=subject.limit_s)
    except ConfigurationError as error:
        return [_refused(each) for each in error.faults]
    except Unavailable as error:
        if _is_late(error):
            fix = "look whether it hangs, or a firewall swallows what is sent there; else correct redis_url"
            return [fault("redis", f"{shown} does not answer within {subject.limit_s:g} s", fix)]
        said = f"{shown} cannot be reached: {error.message.rstrip('.')}"
        return [fault("redis", said, "start it, or correct redis_url")]
    servers = f"{condition.nodes} servers, " if condition.nodes > 1 else ""
    tls = "TLS" if (shown or "").startswith("rediss") else "no TLS"
    found = [
        fine(
            "redis",
            f"{condition.server or 'it answers'} at {shown}, {servers}{tls}, channels {settings.redis_prefix}:*",
        )
    ]
    if condition.memory_bytes and condition.policy != "noeviction" and _counts(settings):
        fix = "give it more memory, or set maxmemory-policy noeviction: what it drops, people may use again"
        found.append(warning("redis memory", f"{condition.policy}: it drops counts of limits when it is full", fix))
    return found


async def _looked_at(url: str, prefix: str, *, limit_s: float) -> RedisCondition:
    """Look again while it is only late: a bus gives up after half a second, and a busy machine has longer ones."""
    now_s = asyncio.get_running_loop().time
    until_s = now_s() + limit_s
    while True:
        try:
            return await examine_redis(url, prefix)
        except Unavailable as error:
            if not _is_late(error) or now_s() >= until_s:
                raise


def _is_late(error: Unavailable) -> bool:
    return "Timeout" in error.message  # the name of the client's error is all that is told of it


def _refused(sentence: str) -> Finding:
    what, _, rest = sentence.partition(": ")
    return by_sentence("redis", rest or what, otherwise=_OTHERWISE)


def _counts(settings: Settings) -> bool:
    return any(getattr(settings, name) is not None for name in _COUNTED)
