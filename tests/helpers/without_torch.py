"""Code for a fresh process in which torch and transformers are not installed: argv is what `decodetr` gets, or nothing
to import the runtime alone."""

PROGRAM = """
import sys

class Hidden:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("torch", "torchvision", "transformers", "accelerate", "timm"):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Hidden())
if sys.argv[1:]:
    from decodetr.cli import main
    sys.exit(main(sys.argv[1:]))
from decodetr.runtime import ExportedDetector
assert ExportedDetector.__module__ == "decodetr.runtime.exported_detector"
"""
