"""A tool for an agent: a session that runs a model's code step by step, with a tool description.

A list of calls stands for the model, so that the example runs without an account; replace it by your own.
"""

import asyncio
import json
import sys

from unsandbox import AsyncClient

TOOL = {
    "name": "run_python",
    "description": "Run Python code. Variables, imports and files stay for the next call. No network.",
    "input_schema": {
        "type": "object",
        "properties": {"code": {"type": "string", "description": "Statements; the value of the last shows."}},
        "required": ["code"],
    },
}

WHAT_A_MODEL_MIGHT_CALL = [
    {"code": "import statistics\nvalues = [3, 5, 8, 13, 21]"},
    {"code": "statistics.mean(values)"},
    {"code": "open('/etc/shadow').read()"},
    {"code": "values.append(34); len(values)"},
]


async def main() -> int:
    """Let the model work; return the exit status."""
    answers = []
    async with AsyncClient() as client, client.session(shell="python3", ttl=600) as session:
        for call in WHAT_A_MODEL_MIGHT_CALL:
            result = await session.run(call["code"], timeout=10)
            # The model receives errors as results and can try something else.
            error = (result.stderr or "").strip().rpartition("\n")[2]
            answer = {"output": result.stdout or "", "error": error}
            answers.append(answer)
            print(TOOL["name"], json.dumps(call), "->", json.dumps(answer))
    right = (
        answers[1]["output"].strip() == "10"
        and "No such file" in answers[2]["error"]
        and answers[3]["output"].strip() == "6"
    )
    return 0 if right else 1


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))
