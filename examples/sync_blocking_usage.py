"""Both modules in one program: functions that need no network are not awaited, all others are.

In an event loop, run blocking code such as the functions of `un` in a thread.
"""

import asyncio
import sys

import un
import un_async


async def main() -> int:
    """Use both; return the exit status."""
    # No network, so nothing to await.
    language = un_async.detect_language("script.py")
    print("script.py is", language)
    if language is None:
        return 1

    result = await un_async.execute_code(language, "print('from un_async')")
    print(result["stdout"], end="")

    blocking = await asyncio.to_thread(un.execute_code, language, "print('from un, in a thread')")
    print(blocking["stdout"], end="")

    right = (result["stdout"], blocking["stdout"]) == ("from un_async\n", "from un, in a thread\n")
    return 0 if right else 1


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))
