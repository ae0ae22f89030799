"""Aim the corpus at a server: `python -m tests.jwt URL --key KEY.json --claims CLAIMS.json` (how-to/test-tokens.md)."""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import time
from pathlib import Path
from typing import Any

import httpx2
from joserfc.jwk import ECKey
from tests.jwt.aim import Answer, aimed
from tests.jwt.corpus import SECTIONS, Mint

_LIFE_S = 300
_SLACK_S = 120  # how long sending may take, and how far the two clocks may be apart


def parse(argv: list[str]) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(prog="python -m tests.jwt", description="Send the token corpus to a server.")
    parser.add_argument("url", help="a route that needs a bearer token, e.g. https://api.example.org/v1/me")
    parser.add_argument(
        "--key", type=Path, required=True, help="file with the private JWK (P-256) that the server trusts"
    )
    parser.add_argument("--claims", type=Path, help="file with the claims of a token that the server takes, as JSON")
    parser.add_argument("--issuer", help="`iss`, over that of --claims")
    parser.add_argument("--audience", help="`aud`, over that of --claims")
    parser.add_argument("--kid", help="`kid`, over that of the key")
    parser.add_argument("--typ", default="at+jwt", help="`typ` of a token that the server takes (default: at+jwt)")
    parser.add_argument("--method", default="GET", help="of the request (default: GET)")
    parser.add_argument("--section", action="append", choices=[*SECTIONS], help="only these; repeatable")
    parser.add_argument("--skip", action="append", default=[], help="name of a case to leave out; repeatable")
    return parser.parse_args(argv)


def mint_of(options: argparse.Namespace) -> Mint:
    """Return what makes tokens for the server that the options describe."""
    jwk: dict[str, Any] = json.loads(options.key.read_text(encoding="utf-8"))
    given: dict[str, Any] = json.loads(options.claims.read_text(encoding="utf-8")) if options.claims else {}
    now_s = int(time.time())  # noqa: TID251 - the other server's clock is what matters, not ours
    base = {"iss": options.issuer, "aud": options.audience, "sub": "corpus", "jti": "corpus-1"}
    good = {**base, **given, "iat": now_s, "exp": now_s + _LIFE_S}
    good |= {name: value for name, value in (("iss", options.issuer), ("aud", options.audience)) if value}
    if not (good["iss"] and good["aud"]):
        raise SystemExit("Say who the server trusts: --issuer and --audience, or --claims with iss and aud.")
    key = ECKey.import_key({name: str(jwk[name]) for name in ("kty", "crv", "x", "y", "d")})
    kid = options.kid or str(jwk.get("kid", ""))
    return Mint(key=key, kid=kid, typ=options.typ, now_s=now_s, slack_s=_SLACK_S, good=good)


async def run(options: argparse.Namespace) -> int:
    """Send a good token, then the corpus; print what is wrong. 0: all refused alike; 1: not; 2: nothing was shown."""
    mint = mint_of(options)
    sections = options.section or [*SECTIONS]
    cases = {name: token for section in sections for name, token in SECTIONS[section](mint).items()}
    cases = {name: token for name, token in cases.items() if name not in options.skip}
    async with httpx2.AsyncClient() as http:
        good = (await aimed(http, options.url, {"good": mint.signed()}, method=options.method))["good"]
        if good.is_refused:
            print(f"The server refuses a good token with {good.status}, so its refusals would show nothing.")
            print("Check --key, --kid, --typ and --claims: user and session must exist.")
            return 2
        answers = await aimed(http, options.url, cases, method=options.method)
    return judged(answers)


def judged(answers: dict[str, Answer]) -> int:
    """Print what was taken and what was refused otherwise; return the exit status."""
    taken = {name: answer for name, answer in answers.items() if not answer.is_refused}
    refusals = {name: answer for name, answer in answers.items() if answer.status == 401}
    shapes = {(answer.body, answer.challenge) for answer in refusals.values()}
    unsent = sum(answer.status is None for answer in answers.values())
    for name, answer in sorted(taken.items()):
        print(f"TAKEN ({answer.status}): {name}")
    if len(shapes) > 1:
        print(f"The refusals differ: {len(shapes)} kinds of answers tell an attacker which check a token failed.")
    print(
        f"{len(answers)} tokens: {len(answers) - len(taken)} refused, {len(taken)} taken; {unsent} fit into no header."
    )
    return 1 if taken or len(shapes) > 1 else 0


if __name__ == "__main__":
    sys.exit(asyncio.run(run(parse(sys.argv[1:]))))
