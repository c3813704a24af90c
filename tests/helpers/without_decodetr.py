"""What a program begins with that has to do without decodetr."""

HIDE = """
import sys

class Hidden:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == "decodetr":
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Hidden())
try:
    import decodetr
except ModuleNotFoundError:
    pass
else:
    raise AssertionError("decodetr is importable")
"""
