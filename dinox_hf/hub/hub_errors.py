"""What went wrong between here and the Hub, in words that say how to mend it."""

from collections.abc import Iterator
from contextlib import contextmanager

from huggingface_hub.errors import HfHubHTTPError, LocalTokenNotFoundError, OfflineModeIsEnabled

# huggingface_hub talks through httpx or httpx2, by its version, and derives its error from that library's.
_HTTP_ERROR = HfHubHTTPError.__mro__[1]
_NETWORK_ERRORS = (_HTTP_ERROR, ConnectionError, TimeoutError)
# The client wraps what stopped an upload in a RuntimeError.
CONNECTION_ERRORS = (*_NETWORK_ERRORS, RuntimeError)

_AGAIN = "Give the same command again: what has arrived is kept and not sent twice."
_ADVICE = {
    401: "Log in with a valid token (`hf auth login`, or HF_TOKEN).",
    403: "The token may not do that: take one with the role `write` for this owner, or give --pull-request.",
    404: "Look at the owner and the name, and whether the token may see a private repository.",
    412: f"Somebody else has pushed meanwhile. {_AGAIN}",
    413: "A file is too large for this Hub.",
    429: f"The Hub asks for a pause. {_AGAIN}",
}


@contextmanager
def explained(repo: str, endpoint: str, state: str) -> Iterator[None]:
    """Turn an error of the client into one of ours; ours pass through.

    Args:
        repo: what was pushed to.
        endpoint: of the Hub.
        state: how the repository is left when this block fails.

    Raises:
        ValueError: without a network or a token to use.
        RuntimeError: what was expected, what the Hub or the network said, what to do.
    """
    try:
        yield
    except OfflineModeIsEnabled as error:
        raise ValueError(
            "Pushing needs the network; found HF_HUB_OFFLINE set. Unset it, and TRANSFORMERS_OFFLINE."
        ) from error
    except LocalTokenNotFoundError as error:
        raise ValueError("Pushing needs an access token; found none. Use `hf auth login`, or set HF_TOKEN.") from error
    except CONNECTION_ERRORS as error:
        root = _root(error)
        if root is None:
            raise
        status = _status(root)
        said = " ".join(str(root).split())[:300] or type(root).__name__
        advice = _ADVICE.get(status, _AGAIN)
        if "xet" in said.lower():
            advice = "This Hub seems to know no Xet storage: set HF_HUB_DISABLE_XET=1 and give the command again."
        raise RuntimeError(f"Expected {endpoint} to take {repo}; found: {said}. {state} {advice}") from error


def is_passing(error: BaseException) -> bool:
    """Whether trying again may help: a broken connection, a busy Hub, somebody else's commit in between."""
    root = _root(error)
    return root is not None and _status(root) in (None, 408, 409, 412, 429, 500, 502, 503, 504)


def _root(error: BaseException) -> BaseException | None:
    """The error of the network beneath what the client made of it; None if there is none."""
    while error is not None:
        if isinstance(error, _NETWORK_ERRORS):
            return error
        error = error.__cause__
    return None


def _status(error: BaseException) -> int | None:
    return getattr(getattr(error, "response", None), "status_code", None)
