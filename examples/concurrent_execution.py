"""Run programs in four languages at once and collect the results; a failed program is a result too."""

import asyncio
import sys

from un_async import execute_code

PROGRAMS = {
    "python": "print('Hello from Python')",
    "javascript": "console.log('Hello from JavaScript')",
    "bash": "echo 'Hello from bash'",
    "perl": "die 'No hello from Perl'",
}


async def main() -> int:
    """Run them; return the exit status."""
    results = await asyncio.gather(*(execute_code(language, code) for language, code in PROGRAMS.items()))
    for language, result in zip(PROGRAMS, results, strict=True):
        output = (result["stdout"] + result["stderr"]).strip()
        print(f"{language:<12} exit code {result['exit_code']:<4} {output}")
    succeeded = [result["success"] for result in results]
    print(f"{sum(succeeded)} of {len(results)} succeeded")
    return 0 if succeeded == [True, True, True, False] else 1


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))
