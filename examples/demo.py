"""Run one program in every installed language, each in its own sandbox, and show the output.

This is `make demo`. It uses the embedded engine, so it needs no account and no network.
"""

from __future__ import annotations

import asyncio
import os
import sys
import time

from unsandbox import AsyncClient
from unsandbox.protocol.models import Job

EXPECTED = "the first ten squares sum to 385"
REQUIRED = ("python", "javascript", "bash", "c", "perl")

PROGRAMS = {
    "python": """
print("the first ten squares sum to", sum(n * n for n in range(1, 11)))
""",
    "javascript": """
const sum = Array.from({ length: 10 }, (_, n) => (n + 1) ** 2).reduce((a, b) => a + b);
console.log(`the first ten squares sum to ${sum}`);
""",
    "bash": """
sum=0
for n in {1..10}; do ((sum += n * n)); done
echo "the first ten squares sum to $sum"
""",
    "c": """
#include <stdio.h>
int main(void) {
    int sum = 0;
    for (int n = 1; n <= 10; n++) sum += n * n;
    printf("the first ten squares sum to %d\\n", sum);
}
""",
    "perl": """
my $sum = 0;
$sum += $_ ** 2 for 1 .. 10;
print "the first ten squares sum to $sum\\n";
""",
    "typescript": """
const sum: number = [...Array(10).keys()].map((n: number): number => (n + 1) ** 2).reduce((a, b) => a + b);
console.log(`the first ten squares sum to ${sum}`);
""",
    "ruby": """
puts "the first ten squares sum to #{(1..10).sum { |n| n * n }}"
""",
    "php": """
<?php echo "the first ten squares sum to ", array_sum(array_map(fn($n) => $n * $n, range(1, 10))), "\\n";
""",
    "lua": """
local sum = 0
for n = 1, 10 do sum = sum + n * n end
print("the first ten squares sum to " .. sum)
""",
    "tcl": """
set sum 0
for {set n 1} {$n <= 10} {incr n} { incr sum [expr {$n * $n}] }
puts "the first ten squares sum to $sum"
""",
    "awk": """
BEGIN { for (n = 1; n <= 10; n++) sum += n * n; print "the first ten squares sum to " sum }
""",
    "cpp": """
#include <iostream>
int main() {
    int sum = 0;
    for (int n : {1, 2, 3, 4, 5, 6, 7, 8, 9, 10}) sum += n * n;
    std::cout << "the first ten squares sum to " << sum << std::endl;
}
""",
    "rust": """
fn main() {
    println!("the first ten squares sum to {}", (1..=10).map(|n| n * n).sum::<i32>());
}
""",
    "go": """
package main

import "fmt"

func main() {
	sum := 0
	for n := 1; n <= 10; n++ {
		sum += n * n
	}
	fmt.Println("the first ten squares sum to", sum)
}
""",
    "java": """
import java.util.stream.IntStream;

class Main {
    public static void main(String[] args) {
        int sum = IntStream.rangeClosed(1, 10).map(n -> n * n).sum();
        System.out.println("the first ten squares sum to " + sum);
    }
}
""",
    "fortran": """
program squares
  integer :: n
  print '(a, i0)', 'the first ten squares sum to ', sum([(n * n, n = 1, 10)])
end program squares
""",
}

PROWLER = """
import os, socket

print(f"user {os.getuid()} on host {socket.gethostname()!r}")
print(f"processes: {sum(name.isdigit() for name in os.listdir('/proc'))}")
for path in ("/root", "/home"):
    print(f"{path}: {os.listdir(path) or 'empty'}")
try:
    print("/etc/shadow:", open("/etc/shadow").read())
except OSError as error:
    print("/etc/shadow:", error.strerror)
try:
    socket.create_connection(("192.0.2.1", 80), timeout=2)
    print("network: reached")
except OSError as error:
    print("network:", error.strerror)
"""
SEEN = """/root: empty
/home: ['user']
/etc/shadow: No such file or directory
network: Network is unreachable
"""

COLOUR = sys.stdout.isatty() and "NO_COLOR" not in os.environ


def paint(code: int, text: str) -> str:
    """Colour a text if the output is a terminal."""
    return f"\033[{code}m{text}\033[0m" if COLOUR else text


def report(language: str, job: Job, seconds: float, *, right: bool) -> None:
    """Print one line per line of output, the first with language and time."""
    output = "\n".join(filter(None, (job.stdout, job.stderr, job.error)))
    first, *others = output.strip().splitlines() or ["(no output)"]
    print(f"{paint(36, f'{language:<12}')}{seconds * 1000:>7.0f} ms   {first if right else paint(31, first)}")
    for line in others:
        print(f"{'':<25}{line}")


async def main() -> int:
    """Run everything; return the exit status."""
    failures = []
    started = time.perf_counter()
    async with AsyncClient.local() as client:
        available = set((await client.languages()).languages)
        ready = (time.perf_counter() - started) * 1000
        print(f"engine ready after {ready:.0f} ms; each program gets a new sandbox\n")
        for language, code in PROGRAMS.items():
            if language not in available and language not in REQUIRED:
                continue
            begun = time.perf_counter()
            # PHP prints what stands before its opening tag.
            job = await client.execute(language, code.lstrip())
            right = job.ok and (job.stdout or "").strip() == EXPECTED
            report(language, job, time.perf_counter() - begun, right=right)
            if not right:
                failures.append(language)

        print("\nWhat a program sees that looks around:\n")
        begun = time.perf_counter()
        job = await client.execute("python", PROWLER)
        right = job.ok and (job.stdout or "").endswith(SEEN)
        report("python", job, time.perf_counter() - begun, right=right)
        if not right:
            failures.append("isolation")

    absent = sorted(set(PROGRAMS) - available)
    if absent:
        print(f"\nNot installed here: {' '.join(absent)} (make dev-install brings them)")
    if failures:
        print(paint(31, f"\nWrong: {' '.join(failures)}"), file=sys.stderr)
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))
