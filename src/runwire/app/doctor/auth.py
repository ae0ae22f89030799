"""The auth service, and other issuers: do they answer, and are they the ones of this deployment."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterator

import runwire
from runwire.app.doctor.finding import Finding, by_sentence, fault, fine, skipped, warning
from runwire.app.doctor.subject import Subject
from runwire.app.inner import http_to
from runwire.app.issuers import examine_issuers
from runwire.auth.agreement import Compared, compare
from runwire.auth.background import Background
from runwire.auth.client import AuthClientSettings
from runwire.auth.contract import SKEW_ALARM_S
from runwire.auth.remote import Remote, SecretRefused
from runwire.auth.tokens import LEEWAY_S
from runwire.errors import Unavailable

__all__ = ["examine_auth_service", "examine_issuer"]


async def examine_auth_service(subject: Subject) -> list[Finding]:
    """Ask the auth service what it is, as a gateway does at its start, by the gateway's secret."""
    settings, roles = subject.settings, subject.roles
    if "gateway" not in roles:
        role = "this process is one" if "auth" in roles else "workers follow accounts in the database"
        return [skipped("auth_url", f"not asked: {role}")]
    if "auth" in roles:
        return [fine("auth_url", "the auth service is in this process")]
    assert settings.auth_url is not None, "a gateway without one is no readable configuration"
    assert settings.service_secret is not None, "likewise"
    background = Background()
    async with http_to(settings.auth_url) as http, asyncio.TaskGroup() as tasks:
        running = tasks.create_task(background.run(_for_ever()))
        await background.until_running()
        remote = Remote(http, background=background, service_secret=settings.service_secret, deadline_s=subject.limit_s)
        found = await _asked(remote, settings.auth_url, issuer=settings.public_url or "", limit_s=subject.limit_s)
        running.cancel()
    return found


async def _for_ever() -> None:
    await asyncio.get_running_loop().create_future()


async def _asked(remote: Remote, url: str, *, issuer: str, limit_s: float) -> list[Finding]:
    try:
        # Anybody may ask for the keys: who refuses them is no auth service, whatever it says to a secret.
        await remote.jwks()
        compared = await compare(
            remote, version=runwire.__version__, issuer=issuer, audience=AuthClientSettings().audience
        )
    except SecretRefused:
        fix = "set the same service_secret for both; while it is changed, service_secret_before at the auth service"
        return [fault("service_secret", f"the auth service at {url} refuses it", fix)]
    except Unavailable as error:
        return [_silent(error, url, limit_s)]
    return list(_compared(compared, url))


def _silent(error: Unavailable, url: str, limit_s: float) -> Finding:
    why = type(error.__context__).__name__
    if "Timeout" in why:
        return fault(
            "auth_url",
            f"{url} does not answer within {limit_s:g} s",
            "look whether the auth service hangs, or correct auth_url",
        )
    if error.__context__ is None:
        found = f"{url} answers, but not as an auth service that works does"
        return fault("auth_url", found, "look at its /health/ready and its log, or correct auth_url")
    return fault(
        "auth_url",
        f"{url} cannot be reached ({why})",
        "start the auth service (serve --role auth), or correct auth_url",
    )


def _compared(compared: Compared, url: str) -> Iterator[Finding]:
    for sentence in compared.faults:
        what, has_what, rest = sentence.partition(": ")
        is_setting = bool(has_what) and re.fullmatch(r"[a-z_]+", what) is not None
        yield by_sentence(
            what if is_setting else "auth service",
            rest if is_setting else sentence,
            otherwise="correct auth_url: it is the auth service of another deployment",
            between="; " if is_setting else ": ",
        )
    if abs(compared.skew_s) > SKEW_ALARM_S:
        judge = fault if abs(compared.skew_s) > LEEWAY_S else warning
        yield judge("auth clock", f"the auth service's is {compared.skew_s:+.0f} s off this one's", "set both by NTP")
    if not compared.faults:
        version = f"Runwire {compared.version}" if compared.version else "an older Runwire"
        yield fine("auth_url", f"{version} at {url}, takes our secret, signs for public_url")


async def examine_issuer(subject: Subject, number: int) -> list[Finding]:
    """Ask one of the other issuers for its keys, as `runwire doctor issuers` does, which says more."""
    issuer = subject.settings.issuers[number]
    one = subject.settings.model_copy(update={"issuers": (issuer,)})
    what = f"issuer {issuer.name}"
    try:
        async with asyncio.timeout(subject.limit_s):
            (found,) = await examine_issuers(one)
    except TimeoutError:
        found = {"fault": f"{issuer.issuer} does not answer within {subject.limit_s:g} s"}
    if found["fault"]:
        return [by_sentence(what, found["fault"], otherwise="look at `runwire doctor issuers`", between="; ")]
    return [fine(what, f"{found['keys']} keys at {issuer.issuer}")]
