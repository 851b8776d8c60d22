"""Compute several Fibonacci numbers at once: each in its own sandbox, all awaited together."""

import asyncio
import sys
import time

from un_async import execute_code

CODE = """
def fibonacci(n):
    return n if n < 2 else fibonacci(n - 1) + fibonacci(n - 2)

print(fibonacci({n}))
"""


async def fibonacci(n: int) -> int:
    """Compute one number in a separate sandbox."""
    result = await execute_code("python", CODE.format(n=n))
    return int(result["stdout"])


async def main() -> int:
    """Compute and check; return the exit status."""
    wanted = {5: 5, 10: 55, 15: 610, 20: 6765, 24: 46368}
    started = time.perf_counter()
    found = dict(zip(wanted, await asyncio.gather(*map(fibonacci, wanted)), strict=True))
    for n, value in found.items():
        print(f"fibonacci({n}) = {value}")
    print(f"{len(found)} sandboxes, {time.perf_counter() - started:.2f} s")
    return 0 if found == wanted else 1


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))
