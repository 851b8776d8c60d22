"""Uses the package `e2b-code-interpreter`, and prints what came of each call as JSON. Run in its environment."""

import asyncio
import json

from e2b_code_interpreter import AsyncSandbox, Sandbox

OPTIONS = {"timeout": 120, "allow_internet_access": False}
seen = {}


def refused(call, *arguments, **options):
    try:
        call(*arguments, **options)
    except Exception as error:
        return type(error).__name__
    return "nothing"


def synchronously():
    with Sandbox.create(envs={"FOO": "bar"}, **OPTIONS) as sandbox:
        run = sandbox.run_code
        seen["state"] = [run("x = 1").error, run("x + 1").text]
        seen["logs"] = run(
            "import os, sys; print('a'); os.system('echo b'); print('e', file=sys.stderr)"
        ).logs.stdout
        error = run("def f():\n    return 1/0\nf()").error
        seen["error"] = [error.name, error.value, "in f" in error.traceback]
        seen["syntax"] = run("x ===").error.name
        seen["env"] = [run("os.environ['FOO']").text, run("os.environ.get('A')", envs={"A": "1"}).text]
        seen["env_after"] = run("os.environ.get('A', 'no')").text
        seen["await"] = run("import asyncio\nawait asyncio.sleep(0.01)\n7").text
        html = run("class T:\n    def _repr_html_(self): return '<b>t</b>'\nT()").results[0]
        seen["html"] = [html.html, html.is_main_result]
        seen["count"] = run("1").execution_count >= 8
        other = sandbox.create_code_context(cwd="/tmp")
        seen["context"] = [
            run("import os; os.getcwd()", context=other).text,
            run("x", context=other).error.name,
        ]
        sandbox.files.write("data.csv", "1,2\n")
        seen["file"] = run("open('/home/user/data.csv').read() + open('data.csv').read()").text
        seen["late"] = refused(run, "while True: pass", timeout=1)
        seen["after"] = run("x").text
        pieces = []
        run("for i in range(3): print(i)", on_stdout=lambda message: pieces.append(message.line))
        seen["streamed"] = "".join(pieces)
        seen["unicode"] = run("print('é' * 70000)").logs.stdout[0][:1]
        seen["language"] = refused(run, "1", language="java")


async def asynchronously():
    async with await AsyncSandbox.create(**OPTIONS) as sandbox:
        await sandbox.run_code("y = 20")
        results = await asyncio.gather(*(sandbox.run_code(f"y + {number}") for number in range(3)))
        seen["async"] = [result.text for result in results]


synchronously()
asyncio.run(asynchronously())
print(json.dumps(seen))
