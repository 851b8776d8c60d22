"""Run programs in four languages at once from threads: the sync twin of concurrent_execution.py."""

import sys
from concurrent.futures import ThreadPoolExecutor

from un import execute_code

PROGRAMS = {
    "python": "print('Hello from Python')",
    "javascript": "console.log('Hello from JavaScript')",
    "bash": "echo 'Hello from bash'",
    "perl": "die 'No hello from Perl'",
}


def main() -> int:
    """Run them; return the exit status."""
    with ThreadPoolExecutor(len(PROGRAMS)) as threads:
        results = list(threads.map(lambda item: execute_code(*item), PROGRAMS.items()))
    for language, result in zip(PROGRAMS, results, strict=True):
        output = (result["stdout"] + result["stderr"]).strip()
        print(f"{language:<12} exit code {result['exit_code']:<4} {output}")
    succeeded = [result["success"] for result in results]
    print(f"{sum(succeeded)} of {len(results)} succeeded")
    return 0 if succeeded == [True, True, True, False] else 1


if __name__ == "__main__":
    sys.exit(main())
