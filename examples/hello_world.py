"""Run one line of Python in a sandbox and print its output."""

from un import execute_code

result = execute_code("python", "print('Hello from the sandbox!')")

print(result["stdout"], end="")
print(f"exit code {result['exit_code']}")

assert result["stdout"] == "Hello from the sandbox!\n", result
