"""Makes a plan's calls, and says what went wrong in words that help. It decides nothing of what is deployed."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from itertools import islice
from typing import Any

from huggingface_hub import HfApi, get_token
from huggingface_hub.errors import HfHubHTTPError, HTTPError, OfflineModeIsEnabled

from personalq.deploy.plan import Call, Plan
from personalq.errors import DeployError

TOKENS = "https://huggingface.co/settings/tokens"
GOOD = ("RUNNING", "SLEEPING")
LAST_LINES = 30
MOST_LINES = 100_000


def push(plan: Plan, environment: Mapping[str, str], on_call: Callable[[str], None]) -> str:
    """Make the calls, each told to `on_call` before, and return the Space's address. Raises DeployError.

    A call that fails leaves what was done before it; the same push goes on from there.
    """
    if not get_token():
        raise DeployError(
            f"There is no Hugging Face token: make one that may write at {TOKENS}, then set HF_TOKEN or run "
            "`hf auth login`."
        )
    api = HfApi()
    hidden = [environment[call.secret] for call in plan.calls if call.secret]
    for call in plan.calls:
        on_call(call.shown())
        reply = _made(api, call, environment, plan, hidden)
        if call.method == "space_info" and reply.sdk not in (None, "gradio"):
            raise DeployError(
                f"{plan.repo} is a Space already, and no Gradio app ({reply.sdk}): choose another name with --repo."
            )
        if call.method == "wait_for_space" and reply.stage not in GOOD:
            raise DeployError(f"The Space does not run: {reply.stage}.\n{_end_of_log(api, plan.repo, reply.stage)}")
    return f"{api.endpoint}/spaces/{plan.repo}"


def _made(api: HfApi, call: Call, environment: Mapping[str, str], plan: Plan, hidden: list[str]) -> Any:
    """The reply to one call. Raises DeployError for everything the Hub, the network or the upload says."""
    arguments = dict(call.arguments)
    if call.secret:
        arguments["value"] = environment[call.secret]
    try:
        return getattr(api, call.method)(**arguments)
    except TimeoutError as error:
        raise DeployError(
            f"{plan.repo} was still starting after {plan.calls[-1].arguments['timeout']} seconds: look at its page."
        ) from error
    except OfflineModeIsEnabled as error:
        raise DeployError("Hugging Face is switched off here: unset HF_HUB_OFFLINE to deploy.") from error
    except HfHubHTTPError as error:
        raise DeployError(_without(hidden, refused(error, call.method, plan))) from None
    except HTTPError as error:
        raise DeployError(
            f"{api.endpoint} cannot be reached ({type(error).__name__}): check the network and push again."
        ) from error
    except (OSError, RuntimeError, ValueError) as error:
        said = _without(hidden, str(error)[:500])
        raise DeployError(f"{call.method} failed: {said}. Mend it and push again; what is there stays.") from None


def refused(error: HfHubHTTPError, method: str, plan: Plan) -> str:
    """What the Hub's refusal of a call means, and what to do."""
    status, said = error.response.status_code, (error.server_message or "")[:300]
    words = f" The Hub says: {said}" if said else ""
    owner = plan.repo.partition("/")[0]
    if status == 401:
        return f"The Hub does not accept the token: make a new one at {TOKENS} that may write, and set HF_TOKEN.{words}"
    if status == 402:
        return (
            f"The Hub wants payment for {plan.hardware}: Gradio Spaces on the free cpu-basic need a subscription "
            "(PRO, or Team or Enterprise for an organisation), paid hardware a payment method. See "
            f"https://huggingface.co/pricing, or choose another with --hardware.{words}"
        )
    if status == 403:
        return (
            f"The token may not do {method} for {owner}: make one at {TOKENS} that may write there, or choose your own "
            f"name with --repo.{words}"
        )
    if status == 404:
        return (
            f"The Hub does not find {plan.repo}, or does not show it to this token: check --repo and the token.{words}"
        )
    if status == 409:
        return f"The name {plan.repo} is taken, or somebody else changes it now: choose another with --repo.{words}"
    if status == 429:
        return f"The Hub wants no more requests for now: push again in a few minutes.{words}"
    return f"{method} failed with status {status}: push again later.{words}"


def _end_of_log(api: HfApi, repo: str, stage: str) -> str:
    """The last lines of the log that tells why a Space does not run."""
    try:
        lines = "".join(islice(api.fetch_space_logs(repo, build=stage == "BUILD_ERROR"), MOST_LINES)).splitlines()
    except (HTTPError, OSError, ValueError, KeyError) as error:
        return f"Its log cannot be read ({type(error).__name__}): see {api.endpoint}/spaces/{repo}?logs=container."
    return "\n".join(lines[-LAST_LINES:]) or "Its log is empty."


def _without(hidden: list[str], text: str) -> str:
    """`text` without the values of secrets, should the other side repeat one."""
    for value in hidden:
        text = text.replace(value, "***")
    return text
