"""The short form of `benchmarks/faults_own.py`: random damage to the package's own files."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from processes import environment

SCRIPT = Path(__file__).resolve().parents[1] / "benchmarks" / "faults_own.py"


def test_random_damage_is_an_error_of_fluxcube_or_has_no_effect():
    command = [sys.executable, "-W", "ignore", str(SCRIPT), "--quick", "--seed", "7", "--count", "24"]
    ended = subprocess.run(command, env=environment(), capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert " 0 failures" in ended.stdout
