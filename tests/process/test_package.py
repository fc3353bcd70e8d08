"""The wheel carries all that a worker needs."""

import subprocess
import sys
import zipfile
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_the_wheel_ships_the_sql(tmp_path: Path) -> None:
    """Every file of sql/ is inside the wheel, where the installed package looks for it."""
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)],
        cwd=ROOT,
        check=True,
        capture_output=True,
    )
    (wheel,) = tmp_path.glob("webhook_worker-*.whl")
    shipped = set(zipfile.ZipFile(wheel).namelist())
    wanted = {f"worker/{path.relative_to(ROOT)}" for path in (ROOT / "sql").rglob("*.sql")}
    assert len(wanted) > 5
    assert set() == wanted - shipped
    assert "worker/py.typed" in shipped
