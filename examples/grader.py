"""Grade submissions: run each against the test cases concurrently and report the points."""

import asyncio
import sys
from dataclasses import dataclass

from unsandbox import AsyncClient

CASES = [("3 4", "7"), ("-1 1", "0"), ("1000000 2", "1000002")]

SUBMISSIONS = {
    "ada": ("python", "a, b = map(int, input().split())\nprint(a + b)"),
    "brian": ("c", '#include <stdio.h>\nint main() { int a, b; scanf("%d%d", &a, &b); printf("%d", a + b); }'),
    "carl": ("python", "a, b = map(int, input().split())\nprint(a - b)"),
    "dora": ("javascript", "while (true) {}"),
    "emil": ("c", "int main() { return }"),
}


@dataclass(frozen=True)
class Grade:
    """The result of a submission: the number of passed cases and a remark."""

    points: int
    remark: str


async def grade(client: AsyncClient, language: str, code: str) -> Grade:
    """Run one submission against every case."""
    jobs = await asyncio.gather(*(client.execute(language, code, stdin=given, ttl=2) for given, _ in CASES))
    outputs = [(job.stdout or "").split() for job in jobs]
    wanted = [[right] for _, right in CASES]
    points = sum(job.ok and output == right for job, output, right in zip(jobs, outputs, wanted, strict=True))
    worst = next((job for job in jobs if not job.ok), None)
    if worst is None:
        return Grade(points, "right" if points == len(CASES) else "wrong answer")
    return Grade(points, "too slow" if worst.status == "timeout" else "does not compile or crashed")


async def main() -> int:
    """Grade all submissions; return the exit status."""
    async with AsyncClient() as client:
        grades = await asyncio.gather(*(grade(client, *submission) for submission in SUBMISSIONS.values()))
    for name, result in zip(SUBMISSIONS, grades, strict=True):
        print(f"{name:<8} {result.points} of {len(CASES)}  {result.remark}")
    wanted = [
        (3, "right"),
        (3, "right"),
        (0, "wrong answer"),
        (0, "too slow"),
        (0, "does not compile or crashed"),
    ]
    return 0 if [(result.points, result.remark) for result in grades] == wanted else 1


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))
