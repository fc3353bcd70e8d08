"""JSON for the batches that cross the driver: orjson where it exists, the standard library on PyPy."""

from typing import Any

try:
    import orjson
except ImportError:
    import json

    def loads(text: str) -> Any:
        """Parse JSON text."""
        return json.loads(text)

    def dumps(value: Any) -> str:
        """Write JSON text."""
        return json.dumps(value, ensure_ascii=False, separators=(",", ":"))
else:

    def loads(text: str) -> Any:
        """Parse JSON text."""
        return orjson.loads(text)

    def dumps(value: Any) -> str:
        """Write JSON text."""
        return orjson.dumps(value).decode()
