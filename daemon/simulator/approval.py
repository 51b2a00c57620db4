"""Approval keys: who may open a session, and the REST door where keys are issued."""

import uuid
from collections.abc import Mapping
from typing import Any

import msgspec
from aiohttp import web

from daemon.simulator.faults import Countdown

PATH = "/oauth2/Approval"


REFUSED = "wrong"  # as app key or secret: refused, so that a bad credential can be rehearsed


class Approvals:
    """Which approval key belongs to which app key, and which session holds each app key."""

    def __init__(self, *, expire_first: bool = False) -> None:
        self._expire_first = expire_first
        self._app_keys: dict[str, str] = {}  # approval key -> app key
        self._expired: set[str] = set()
        self._holders: dict[str, int] = {}  # app key -> session number

    def issue(self, app_key: str) -> str:
        """Return a new approval key; earlier ones of the same app key stay valid."""
        approval_key = str(uuid.uuid4())
        if self._expire_first and app_key not in self._app_keys.values():
            self._expired.add(approval_key)
        self._app_keys[approval_key] = app_key
        return approval_key

    def app_key_of(self, approval_key: str) -> str | None:
        """Return the app key that *approval_key* stands for, or None if it is unknown or expired."""
        return None if approval_key in self._expired else self._app_keys.get(approval_key)

    def claim(self, app_key: str, session: int) -> bool:
        """Let *session* hold *app_key*; False if another session does."""
        return self._holders.setdefault(app_key, session) == session

    def release(self, session: int) -> None:
        """Free whatever *session* holds."""
        self._holders = {app_key: holder for app_key, holder in self._holders.items() if holder != session}


def check_credentials(body: bytes) -> str | tuple[str, str]:
    """Return the app key of a well-formed approval request, or the error's code and description."""
    try:
        fields: Any = msgspec.json.decode(body)
    except msgspec.DecodeError:
        fields = None
    if not isinstance(fields, dict) or fields.get("grant_type") != "client_credentials":
        return "EGW00101", "invalid request: grant_type"
    for name, code, description in (
        ("appkey", "EGW00103", "invalid AppKey"),
        ("secretkey", "EGW00105", "invalid AppSecret"),
    ):
        if not isinstance(fields.get(name), str) or fields[name] in ("", REFUSED):
            return code, description
    return str(fields["appkey"])


def approval_application(approvals: Approvals, refuse: Countdown, counts: dict[str, int]) -> web.Application:
    """Return the REST application; *refuse* answers so many requests with 500 first, *counts* is kept up to date."""

    async def approve(request: web.Request) -> web.Response:
        if refuse.take():
            counts["refused"] += 1
            return _json({"error_code": "EGW00002", "error_description": "server error"}, status=500)
        checked = check_credentials(await request.read())
        if isinstance(checked, tuple):
            counts["rejected"] += 1
            return _json({"error_code": checked[0], "error_description": checked[1]}, status=403)
        counts["issued"] += 1
        return _json({"approval_key": approvals.issue(checked)})

    application = web.Application()
    application.router.add_post(PATH, approve)
    return application


def _json(fields: Mapping[str, str], status: int = 200) -> web.Response:
    return web.Response(
        body=msgspec.json.encode(fields), status=status, content_type="application/json", charset="utf-8"
    )
