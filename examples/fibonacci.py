"""Compute Fibonacci numbers in a sandbox: send a function and read its result as JSON."""

import json

from un import execute_code

CODE = """
import json

def fibonacci(n):
    return n if n < 2 else fibonacci(n - 1) + fibonacci(n - 2)

print(json.dumps([fibonacci(n) for n in range(15)]))
"""

numbers = json.loads(execute_code("python", CODE)["stdout"])
print("fibonacci(0) to fibonacci(14):", *numbers)

assert numbers == [0, 1, 1, 2, 3, 5, 8, 13, 21, 34, 55, 89, 144, 233, 377], numbers
