"""The REST doors: where keys are issued, and `POST /faults`, where a fault is put into effect while all runs."""

import datetime
from collections.abc import Callable, Mapping
from typing import Any

import msgspec
from aiohttp import web

from daemon.simulator.approval import REFUSED, Approvals
from daemon.simulator.faults import Faults

APPROVAL_PATH = "/oauth2/Approval"
TOKEN_PATH, REVOKE_PATH = "/oauth2/token", "/oauth2/revoke"
FAULTS_PATH = "/faults"
TOKEN_VALID = datetime.timedelta(hours=24)
SEOUL = datetime.timezone(datetime.timedelta(hours=9))


def check_credentials(body: bytes) -> str | tuple[str, str]:
    """Return the app key of a well-formed request for a key, or the error's code and description."""
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


def kis_routes(approvals: Approvals, faults: Faults) -> list[web.RouteDef]:
    """Return KIS's approval door."""

    async def approve(request: web.Request) -> web.Response:
        checked = check_credentials(await request.read())
        trouble = _trouble(approvals, faults, checked, "kis")
        if trouble is not None:
            return trouble
        if isinstance(checked, tuple):
            approvals.counts["rejected"] += 1
            return _json({"error_code": checked[0], "error_description": checked[1]}, status=403)
        approvals.counts["issued"] += 1
        return _json({"approval_key": approvals.issue(checked)})

    return [web.post(APPROVAL_PATH, approve)]


def kiwoom_routes(approvals: Approvals, faults: Faults, wall_ns: Callable[[], int]) -> list[web.RouteDef]:
    """Return Kiwoom's token doors. Refusals are return codes in a reply with status 200."""

    async def issue(request: web.Request) -> web.Response:
        checked = check_credentials(await request.read())
        trouble = _trouble(approvals, faults, checked, "kiwoom")
        if trouble is not None:
            return trouble
        if isinstance(checked, tuple):
            approvals.counts["rejected"] += 1
            code, text = ("8011", "grant_type") if checked[0] == "EGW00101" else ("8001", "App Key와 Secret Key 검증")
            return _json({"return_code": 3, "return_msg": f"인증에 실패했습니다[{code}:{text}에 실패했습니다]"})
        approvals.counts["issued"] += 1
        expires = datetime.datetime.fromtimestamp(wall_ns() / 1e9, SEOUL) + TOKEN_VALID
        return _json(
            {
                "expires_dt": expires.strftime("%Y%m%d%H%M%S"),
                "token_type": "bearer",
                "token": approvals.issue(checked),
                "return_code": 0,
                "return_msg": "정상적으로 처리되었습니다",
            }
        )

    async def revoke(request: web.Request) -> web.Response:
        checked = check_credentials(
            msgspec.json.encode({"grant_type": "client_credentials"} | msgspec.json.decode(await request.read()))
        )
        if isinstance(checked, str):
            approvals.expire(checked)
        return _json({"return_code": 0, "return_msg": "정상적으로 처리되었습니다"})

    return [web.post(TOKEN_PATH, issue), web.post(REVOKE_PATH, revoke)]


def fault_routes(inject: Callable[[str], None]) -> list[web.RouteDef]:
    """Return the door that takes faults as text, one a line."""

    async def take(request: web.Request) -> web.Response:
        try:
            for line in (await request.text()).split():
                inject(line)
        except ValueError as exc:
            return web.Response(status=400, text=str(exc))
        return web.Response(status=204)

    return [web.post(FAULTS_PATH, take)]


def _trouble(approvals: Approvals, faults: Faults, checked: str | tuple[str, str], venue: str) -> web.Response | None:
    plan = faults.plan(*((checked,) if isinstance(checked, str) else ()), venue)
    if plan.throttle_approval.take():
        approvals.counts["throttled"] += 1
        return _json({"error_code": "EGW00201", "error_description": "too many requests a second"}, status=429)
    if plan.refuse_approval.take():
        approvals.counts["refused"] += 1
        return _json({"error_code": "EGW00002", "error_description": "server error"}, status=500)
    return None


def _json(fields: Mapping[str, Any], status: int = 200) -> web.Response:
    return web.Response(
        body=msgspec.json.encode(fields), status=status, content_type="application/json", charset="utf-8"
    )
