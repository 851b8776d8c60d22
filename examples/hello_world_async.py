"""The async version of hello_world.py: run one line of Python and handle errors."""

import asyncio
import sys

import aiohttp

from un_async import CredentialsError, execute_code


async def main() -> int:
    """Run it; return the exit status."""
    try:
        result = await execute_code("python", "print('Hello from the sandbox!')")
    except CredentialsError as error:
        print(f"No usable key: {error}", file=sys.stderr)
        return 1
    except aiohttp.ClientError as error:
        print(f"The server could not be asked: {error}", file=sys.stderr)
        return 1
    print(result["stdout"], end="")
    return 0 if result["stdout"] == "Hello from the sandbox!\n" else 1


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))
