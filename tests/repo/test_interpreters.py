"""The package works on every patch release of its oldest Python, whose `re` had a fault before 3.11.5."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
SYSTEM = "/usr/bin/python3"
CHECKS = r'''
from unsandbox.protocol import json_values
from unsandbox.sandbox.languages import versions
from unsandbox.sandbox.languages.java import java_steps
from unsandbox.sandbox.languages.source_text import without_noise
from unsandbox.sandbox.languages.steps import Steps
import re

launcher = Steps("Main.java", None, ["java", "{src}"], "")
later = "public class Shape {}\npublic class Main { public static void main(String[] a) {} }\n"
assert java_steps(launcher, later).source == "Main.java"
assert java_steps(launcher, later).compile
assert without_noise("/* a * b\n * c */ x // d").split() == ["x"]
assert without_noise('"""a "b" \\""" c""" x "d\\"e" y').split() == ["x", "y"]
assert without_noise("{- a - b\n -} x -- c", haskell=True).split() == ["x"]
assert re.match(versions._NUMBER, "3.11. x")[0] == "3.11"
json_values.REGION_BYTES = 3
assert not json_values.has_more_values(rb'["ab\"cd,,,,"]', 3)
'''


def test_patterns_read_the_same_on_the_systems_python():
    version = subprocess.run(
        [SYSTEM, "-c", "import sys; print(sys.version_info[:2])"], capture_output=True, text=True
    )
    same = version.stdout.strip() == str(sys.version_info[:2])
    done = subprocess.run(
        [SYSTEM if same else sys.executable, "-c", CHECKS],
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT / "src"), *filter(None, sys.path)])},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
