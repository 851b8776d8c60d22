"""E2B's clients on this project's sandboxes: the variables that lead the unchanged packages here.

```python
import os
from unsandbox import e2b

os.environ |= e2b.environ()
from e2b_code_interpreter import Sandbox
```
"""

from __future__ import annotations

from unsandbox import local
from unsandbox.credentials import resolve_credentials
from unsandbox.protocol.tokens import e2b_api_key

__all__ = ["environ"]


def environ(
    url: str | None = None, *, public_key: str | None = None, secret_key: str | None = None
) -> dict[str, str]:
    """Return the environment variables for E2B's clients.

    Args:
        url: URL of a server's E2B port (`un serve --e2b-port`). Default: the embedded engine of this process,
            which is started if it does not run.
        public_key: Public key for the server. By default the keys are looked up as described in
            `unsandbox.credentials`.
        secret_key: Secret key for the server.

    Returns:
        `E2B_API_KEY`, `E2B_API_URL` and `E2B_SANDBOX_URL`. The key contains the secret key.

    Raises:
        CredentialsError: No keys were found for the server.
        EngineError: The embedded engine cannot run here.

    Example:
        >>> environ("http://127.0.0.1:3000", public_key="a", secret_key="b")["E2B_API_KEY"]
        'e2b_612e62'
    """
    if url is None:
        server = local.ensure_started()
        url, public_key, secret_key = local.e2b_url(), server.public_key, server.secret_key
    else:
        keys = resolve_credentials(public_key, secret_key)
        public_key, secret_key = keys.public_key, keys.secret_key
    return {
        "E2B_API_KEY": e2b_api_key(public_key, secret_key),
        "E2B_API_URL": url,
        "E2B_SANDBOX_URL": url,
    }
